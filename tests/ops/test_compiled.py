"""Every kernel form that a launch may ask for compiles for A100 and H100, without a GPU and without spilling.

Spilled registers and too much shared memory fail at no other time than on the GPU itself.
"""

import importlib
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.platform != "linux":  # on Linux Triton and its compiler come with torch: their absence is an error
    pytest.skip("Triton exists for Linux only", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from adaptive_ft_kernels import triton_path
from adaptive_ft_kernels.triton_path.tiles import CAPABILITIES, SHARED_MEMORY, CompiledForm

PROGRAMS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
MATRIX_INSTRUCTION = {80: r"\bHMMA", 90: r"\bHGMMA"}


def every_form() -> Iterator[CompiledForm]:
    for module in pkgutil.iter_modules(triton_path.__path__):
        imported = importlib.import_module(f"{triton_path.__name__}.{module.name}")
        if hasattr(imported, "compiled_forms"):
            yield from imported.compiled_forms()


def name_of(form: CompiledForm) -> str:
    return f"{form.name}-sm_{form.capability}"


FORMS = list(every_form())
NAMES = [name_of(form) for form in FORMS]


@dataclass(frozen=True)
class Compiled:
    shared_memory: int
    resource_usage: str
    machine_code: str
    assembler_log: str


@pytest.fixture(scope="module")
def compiling(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Compiled]]]:
    """The selected forms, compiled side by side; a cache beside pytest's own keeps those that did not change."""
    selected = {name for item in request.session.items for name in NAMES if item.name.endswith(f"[{name}]")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(request.config.cache.mkdir("triton")))
        patch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # 3.9 warns that its default will change
        fork = multiprocessing.get_context("fork")  # kernels cannot be sent to another process
        with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=fork) as workers:
            yield {name: workers.submit(compiled, NAMES.index(name)) for name in NAMES if name in selected}


@pytest.mark.parametrize("name", NAMES)
def test_form_fits_the_gpu(name: str, compiling: dict[str, Future[Compiled]]) -> None:
    form, found = FORMS[NAMES.index(name)], compiling[name].result()
    assert "STACK:0 " in found.resource_usage, "registers spill"
    assert "LOCAL:0 " in found.resource_usage, "registers spill"
    assert found.shared_memory <= SHARED_MEMORY[form.capability]
    if form.tensor_cores:
        assert re.search(MATRIX_INSTRUCTION[form.capability], found.machine_code)
        assert re.search(r"\bLDGSTS", found.machine_code), "the loop does not copy asynchronously"
        # C7515: each wgmma waits for the one before it. A loop that may run zero times is enough to cause it.
        assert "serialized" not in found.assembler_log


def test_both_capabilities_have_forms() -> None:
    assert {form.capability for form in FORMS} == set(CAPABILITIES)
    assert len(set(NAMES)) == len(NAMES)


def compiled(index: int) -> Compiled:
    form = FORMS[index]
    arguments = form.kernel.arg_names
    assert set(arguments) == form.signature.keys() | form.constants.keys()
    aligned = [i for i, name in enumerate(arguments) if name in form.aligned or is_aligned_pointer(form, i)]
    source = ASTSource(
        form.kernel,
        {name: form.signature.get(name, "constexpr") for name in arguments},
        {(arguments.index(name),): value for name, value in form.constants.items()},
        {(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    options = {"num_warps": form.num_warps, "num_stages": form.num_stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", form.capability, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        cubin, ptx = Path(folder, "kernel.cubin"), Path(folder, "kernel.ptx")
        cubin.write_bytes(kernel.asm["cubin"])
        ptx.write_text(kernel.asm["ptx"])
        usage = output_of("cuobjdump", "--dump-resource-usage", cubin)
        machine_code = output_of("cuobjdump", "--dump-sass", cubin) if form.tensor_cores else ""
        log = assembler_log(ptx) if form.tensor_cores and form.capability == 90 else ""
    return Compiled(kernel.metadata.shared, usage, machine_code, log)


def is_aligned_pointer(form: CompiledForm, index: int) -> bool:
    pointer = form.signature.get(form.kernel.arg_names[index], "").startswith("*")
    return pointer and not form.kernel.params[index].do_not_specialize


def output_of(program: str, *arguments: str | Path) -> str:
    return subprocess.run([PROGRAMS / program, *arguments], capture_output=True, text=True, check=True).stdout


def assembler_log(ptx: Path) -> str:
    """What ptxas says for an H100; Triton brings an older ptxas too, which may not know the newest PTX."""
    for assembler in sorted(PROGRAMS.glob("ptxas*"), reverse=True):
        command = [assembler, "--verbose", "--gpu-name=sm_90a", ptx, "--output-file", ptx.with_suffix(".o")]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode == 0:
            return run.stderr
    raise AssertionError(f"no ptxas in {PROGRAMS} takes this kernel")
