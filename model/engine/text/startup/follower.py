"""The ranks of an engine on a host that is not its leader's."""

from __future__ import annotations

from vllm.v1.executor.multiproc_executor import MultiprocExecutor

from model.checkpoint.store import load_config
from model.engine.text.options import TextEngineOptions
from model.engine.text.startup.machine import fit_to_machine
from model.engine.text.startup.vllm import engine_arguments, prepare_vllm


class RankHolder:
    """Holds this host's ranks; the leader's engine drives them."""

    def __init__(self, options: TextEngineOptions) -> None:
        config = load_config(options.checkpoint)
        self._options = fit_to_machine(options, config)
        self._arguments = engine_arguments(self._options, config)
        self._executor: MultiprocExecutor | None = None

    @property
    def started(self) -> bool:
        """Whether all ranks of the engine have met and loaded the model."""
        return self._executor is not None

    def run(self) -> None:
        """Start the ranks, and return once one of them has ended."""
        prepare_vllm(self._options)
        config = self._arguments.create_engine_config(headless=True)
        self._executor = MultiprocExecutor(config, monitor_workers=False)
        self._executor.start_worker_monitor(inline=True)

    def stop(self) -> None:
        """End the ranks."""
        if self._executor is not None:
            self._executor.shutdown()
