"""Python processes in which lrkernels has not been imported yet, for tests of what it reads when it is.

Importing torch takes seconds, so one server imports it for all: each process here is a fork of that server, made while
nothing in it has run.
"""

import multiprocessing
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch"])


@dataclass
class Finished:
    returncode: int
    stdout: str
    stderr: str


def _run(code: str, environment: dict[str, str], out: Path, err: Path) -> None:
    for path, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY), stream)
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    os.environ.update(environment)
    assert "lrkernels" not in sys.modules
    try:
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
    except SystemExit as stop:
        os._exit(stop.code if isinstance(stop.code, int) else stop.code is not None)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def run(code: str, *, timeout: float = 120, **environment: str) -> Finished:
    """Runs ``code`` as a script, with these variables beside those of this process."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch(), err.touch()
        process = CONTEXT.Process(target=_run, args=(code, dict(os.environ) | environment, out, err))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(f"still running after {timeout} s:\n{err.read_text()}")
        return Finished(process.exitcode, out.read_text(), err.read_text())
