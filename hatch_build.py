"""The build hook of the package: compile the CPU kernel where that is possible, and never fail for it.

With the kernel, a wheel is one for its platform; without, it is for any. `LSTM_JAX_NO_KERNEL=1` leaves the
kernel out. `LSTM_JAX_KERNEL_TARGET`, a platform as in the kernel's `build.py`, compiles for another one; then
a failure is one.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src", "lstm_jax", "backends", "cpu_kernel")
OLDEST_HEADERS = "jaxlib==0.10.1; python_version < '3.15'"
ANY_HEADERS = "jaxlib>=0.10.1,!=0.10.2; python_version >= '3.15'"


def load_build(root):
    """The kernel's own `build.py`, without the package around it."""
    spec = importlib.util.spec_from_file_location(
        "cpu_kernel_build", Path(root, FOLDER, "build.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class KernelHook(BuildHookInterface):
    """Builds the kernel for wheels and for editable installs."""

    def dependencies(self):
        """What the build needs beyond hatchling: XLA's headers, and a compiler where there is none."""
        build = load_build(self.root)
        target = os.environ.get("LSTM_JAX_KERNEL_TARGET")
        if os.environ.get(build.SWITCH, "") not in ("", "0") or not (target or build.this_target()):
            return []
        # The oldest headers serve every later JAX.
        needed = [] if build.headers_folder() else [OLDEST_HEADERS, ANY_HEADERS]
        if target or next(build.compilers(os.environ), None) is None:
            needed.append("ziglang")
        return needed

    def initialize(self, version, build_data):
        """Build the kernel; put it into a wheel, or beside its sources for an editable install."""
        build = load_build(self.root)
        target = os.environ.get("LSTM_JAX_KERNEL_TARGET") or None
        beside = Path(self.root, FOLDER)
        self.temporary = None
        if version == "editable":
            target, folder = None, beside
        elif target is None and os.access(beside, os.W_OK):
            folder = beside
        else:
            self.temporary = tempfile.mkdtemp()
            folder = Path(self.temporary)
        built = build.build_library(folder, target=target)
        if built.library is None:
            if target:
                raise RuntimeError(built.reason)
            self.app.display_warning(f"The CPU kernel is left out. {built.reason}")
        if version == "editable":
            return
        made = [built.library] if built.library else [folder / "why_not.txt"]
        for path in made:
            if path.exists():
                build_data["force_include"][str(path)] = f"lstm_jax/backends/cpu_kernel/{path.name}"
        if built.library:
            build_data["pure_python"] = False
            build_data["tag"] = (
                f"py3-none-{build.TARGETS[target].wheel if target else own_platform()}"
            )

    def finalize(self, version, build_data, artifact_path):
        """Remove what was compiled apart."""
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)


def own_platform():
    """The platform of this Python as wheels name it."""
    if sys.platform == "darwin":
        from packaging.tags import platform_tags

        return next(iter(platform_tags()))
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
