"""The table of backbone families at the end of the test output."""

STEPS = ("forward", "backward", "generate", "save", "load", "LoRA")


def pytest_terminal_summary(terminalreporter):
    """One row per pair of families that was run: what was shown for it."""
    rows, remote, notes = {}, set(), {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = getattr(report, "user_properties", [])
            remote |= {value for key, value in properties if key == "remote code"}
            for family in (value for key, value in properties if key == "family"):
                rows[family] = {value for key, value in properties if key == "shown"}
                if outcome == "skipped":
                    notes[family] = f"skipped: {report.longrepr[2].removeprefix('Skipped: ')}"
    if not rows:
        return
    terminalreporter.section("backbone families")
    columns = (*STEPS, "remote code")
    terminalreporter.line(f"{'encoder + language model':30}" + "".join(f"{name:>13}" for name in columns))
    for family, shown in sorted(rows.items()):
        if family in notes:
            terminalreporter.line(f"{family:30} {notes[family]}")
            continue
        marks = ["ok" if step in shown else "FAILED" for step in STEPS] + ["ok" if family in remote else "-"]
        terminalreporter.line(f"{family:30}" + "".join(f"{mark:>13}" for mark in marks))
