"""The console script, interrupted while it imports."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("module", ["argparse", "torch"])
def test_an_interrupt_during_imports_is_one_line(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    os.abort()  # as torch's import does\n"
    )
    script = "import sys, groundloc_start; sys.exit(groundloc_start.run())"
    ended = subprocess.run(
        [sys.executable, "-c", script, "match", __file__, __file__],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), capture_output=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (130, "error: interrupted\n")
