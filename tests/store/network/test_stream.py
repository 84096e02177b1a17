"""Progress bars: only for long transfers, and only on a terminal."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from hub_client.store.network import stream


def test_nothing_is_shown_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with stream.progress(stream.LONG * 2, what="lab/[kidney]") as advance:
        advance("weights")(stream.LONG)
    with stream.progress(10, what="short") as advance:
        advance("card")(10)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_long_transfer_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    parent, child = pty.openpty()
    with os.fdopen(child, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with stream.progress(stream.LONG, what="lab/[kidney]") as advance:
            advance("weights")(stream.LONG // 2)
        terminal.flush()
        shown = os.read(parent, 1 << 16).decode()
    os.close(parent)
    assert "lab/[kidney]" in shown
    assert "4.2 MB" in shown
