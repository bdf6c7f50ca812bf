"""MM-Interleaved inside vLLM, as an out-of-tree plugin.

The entry point `vllm.general_plugins` calls `register` in every vLLM process. Nothing else is
imported here: most processes never load the model.
"""


def register() -> None:
    """Make the architecture, its configuration and its cache layers known to vLLM.

    A process of vLLM then also ends with the worker that started it.
    """
    from model.vllm_plugin.engine_core.parent import end_with_parent
    from model.vllm_plugin.registration import register_model

    end_with_parent()
    register_model()
