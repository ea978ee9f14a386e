"""Fixtures of the SGLang tests.

Environment: `KVTIER_GUESTS` is the folder of built guest components, and the package `kvtier` is on `PYTHONPATH`.
SGLang is there too, or in the folder that `KVTIER_SGLANG` names. It compiles its hash of pages at first use, for which
a C++ compiler and `ninja`, which is beside the interpreter, have to be on `PATH`.
"""

import os
import sys
from pathlib import Path

import pytest

if "KVTIER_GUESTS" not in os.environ:
    pytest.skip("KVTIER_GUESTS does not name the folder of built guests", allow_module_level=True)
if os.environ.get("KVTIER_SGLANG"):
    sys.path.append(os.environ["KVTIER_SGLANG"])
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
pytest.importorskip("sglang")

import controller  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def sglang():
    controller.start_sglang()


@pytest.fixture(scope="session")
def guests():
    return Path(os.environ["KVTIER_GUESTS"])


@pytest.fixture
def attach():
    """Attaches storage to new controllers, and detaches it afterwards: `attach(extra, pools=None, **ranks)`."""
    attached = []

    def new(*args, **settings):
        attached.append(controller.Controller(*args, **settings))
        return attached[-1]

    yield new
    for one in attached:
        one.detach()
