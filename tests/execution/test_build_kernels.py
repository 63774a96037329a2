"""How the kernels come to be: compilers, caches, processors."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

import sparsebench.execution.direct.build as module
from sparsebench.execution.direct.build import NoKernels, available, build, cache_folder, library, library_name

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="needs a C++ compiler"
)

PROGRAM = """
import sys, torch, warnings
from torch.nn import functional
from sparsebench.execution import direct
torch.manual_seed(0)
for stride, padding, images in ((1, 1, 3), (2, 1, 17), (1, 0, 40), (3, 2, 130)):
    x = torch.randn(images, 5, 6, 7, requires_grad=True)
    weight = torch.randn(4, 5, 3, 3, requires_grad=True)
    mask = torch.rand(4, 5, 3, 3) < 0.3
    results = []
    for out in (direct.conv2d(x, weight, mask, None, stride, padding),
                functional.conv2d(x, weight * mask, None, stride, padding)):
        results.append([out, *torch.autograd.grad(out, (x, weight), torch.ones_like(out))])
    with torch.no_grad():
        few = direct.conv2d(x[:3], weight, mask, None, stride, padding)
        results[0].append(few)
        results[1].append(functional.conv2d(x[:3], weight * mask, None, stride, padding))
    for one, two in zip(*results):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
print("fits", direct.capability())
"""


def run(*, code=PROGRAM, **environment):
    inherited = {name: value for name, value in os.environ.items() if name not in ("CXX", "CXXFLAGS")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=False)


@needs_compiler
def test_kernels_are_compiled_once(tmp_path):
    made = build(folder=tmp_path)
    assert made == tmp_path / library_name(module.capability())
    before = made.stat().st_mtime_ns
    assert build(folder=tmp_path).stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [made.name]


def test_a_kind_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"kernels='SSE9' is unknown: choose one of AVX512, AVX2, DEFAULT"):
        build("SSE9", tmp_path)


@pytest.mark.parametrize(
    ("compiler", "words"), [("no-such-compiler", "does not run"), ("false", "cannot compile the kernels")]
)
def test_a_compiler_that_fails(tmp_path, monkeypatch, compiler, words):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(NoKernels, match=words) as caught:
        build(folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_products_are_dense_and_one_line_says_so(tmp_path, monkeypatch):
    from sparsebench.execution import direct

    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("SPARSEBENCH_KERNELS", str(tmp_path))
    library.cache_clear()
    available.cache_clear()
    try:
        weight, mask, x = torch.randn(3, 4), torch.rand(3, 4) < 0.5, torch.randn(5, 4)
        with pytest.warns(UserWarning, match=r"no C\+\+ compiler was found: install") as said:
            out = direct.linear(x, weight, mask)
        assert len(said) == 1
        torch.testing.assert_close(out, torch.nn.functional.linear(x, weight * mask))
        direct.linear(x, weight, mask)  # a second warning would be an error here
    finally:
        library.cache_clear()
        available.cache_clear()


def test_where_kernels_are_kept(monkeypatch):
    monkeypatch.delenv("SPARSEBENCH_KERNELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache_folder()) == "/somewhere/sparsebench/kernels"
    monkeypatch.setenv("SPARSEBENCH_KERNELS", "/elsewhere")
    assert str(cache_folder()) == "/elsewhere"


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_other_instructions(tmp_path, capability):
    done = run(SPARSEBENCH_KERNELS=str(tmp_path), ATEN_CPU_CAPABILITY=capability)
    assert done.stdout.strip().lower() == f"fits {capability}", done.stderr


@needs_compiler
def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(SPARSEBENCH_KERNELS=str(tmp_path / "file" / "kernels"))
    assert done.stdout.startswith("fits"), done.stderr


@needs_compiler
def test_a_damaged_library_is_built_again(tmp_path):
    (tmp_path / library_name(module.capability())).write_text("no library")
    assert run(SPARSEBENCH_KERNELS=str(tmp_path)).stdout.startswith("fits")


@needs_compiler
@pytest.mark.slow
def test_two_processes_build_at_once(tmp_path):
    environment = os.environ | {"SPARSEBENCH_KERNELS": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert all(process.communicate()[0].startswith("fits") for process in both)
    assert [path.name for path in tmp_path.iterdir()] == [library_name(module.capability())]


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="preloads the sanitizer's library")
@pytest.mark.parametrize("kind", ["native", "default"])
def test_addresses_and_undefined_behaviour(tmp_path, kind):
    compiler = os.environ.get("CXX") or "c++"
    asan = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not os.path.isabs(asan.stdout.strip()):
        pytest.skip("this compiler has no address sanitizer")
    done = run(
        SPARSEBENCH_KERNELS=str(tmp_path),
        CXXFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined",
        LD_PRELOAD=asan.stdout.strip(),
        ASAN_OPTIONS="detect_leaks=0",
        **({"ATEN_CPU_CAPABILITY": "default"} if kind == "default" else {}),
    )
    assert done.stdout.startswith("fits"), done.stderr[-3000:]
