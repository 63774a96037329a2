"""Results name the versions that are installed; a checkout that is not installed trains and reports, too."""

import importlib.metadata

import pytest

from sparsebench.app.main import main
from sparsebench.results.record import PACKAGES, environment
from sparsebench.runs.source import version_of

ABSENT = ("sparsebench", "torchvision", "timm")


@pytest.fixture
def bare(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name in ABSENT:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_versions_of_what_is_installed():
    assert set(environment()["versions"]) == set(PACKAGES)


@pytest.mark.usefixtures("bare")
def test_a_bare_checkout_has_a_result(capsys):
    assert set(environment()["versions"]) == set(PACKAGES) - set(ABSENT)
    assert version_of("sparsebench") is None
    main(["--version"])
    assert capsys.readouterr().out == "sparsebench (not installed)\n"
