"""`python -m tests.service.local.fake_role ROLE`: a role as `mmi` runs it, on a fake engine.

It ends at once with status 3 while a file of the role's name lies in `MMI_CACHE_DIR`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(name: str) -> int:
    if Path(os.environ["MMI_CACHE_DIR"], name).exists():
        sys.stderr.write("cannot go on\n")
        return 3
    from service import loop
    from service.config import GatewaySettings, ImageWorkerSettings, TextWorkerSettings

    if name == "gateway":
        from service.gateway import server

        return server.run(GatewaySettings())
    from service.workers.image import worker as image_worker
    from service.workers.text import worker as text_worker
    from tests.faults.engines import FakeImageEngine, FakeTextEngine, Speed

    if name == "text-worker":
        worker = text_worker.create(TextWorkerSettings(), FakeTextEngine(Speed()))
    else:
        worker = image_worker.create(ImageWorkerSettings(), FakeImageEngine(Speed()))
    return loop.run(worker.run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
