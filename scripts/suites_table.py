"""Write docs/hydra-suites.md from what pytest reported: Hydra's suites, test by test, counted.

scripts/suites_table.py VERSION=REPORT.xml [VERSION=REPORT.xml ...]
"""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

TARGET = Path(__file__).parents[1] / "docs" / "hydra-suites.md"
SUITES = {
    "TestDockerLauncher": "`LauncherTestSuite`",
    "TestDockerLauncherInBatches": "`BatchedSweeperTestSuite`",
    "TestDockerLauncherIntegration": "`IntegrationTestSuite`",
    "test_compare": "app by app, beside the basic launcher",
}
HEAD = """\
# Hydra's own suites, in containers

Written by `make test`; not by hand. The first three are the suites of
`hydra.test_utils.launcher_common_tests`, unmodified, none of their tests skipped or deselected;
every job runs in a container of its own. The last runs the toy apps in `tests/apps/compare` under
`hydra/launcher=basic` and `hydra/launcher=docker` and compares what they saw and left behind.

| suite | hydra-core | passed | failed | skipped |
|---|---|---|---|---|
"""


def main(arguments: list[str]) -> None:
    rows = []
    for argument in arguments:
        version, _, report = argument.partition("=")
        counts = count(Path(report))
        rows += [
            f"| {title} | {version} | {results['passed']} | {results['failed']} | "
            f"{results['skipped']} |\n"
            for name, title in SUITES.items()
            if (results := counts.get(name)) is not None
        ]
    TARGET.write_text(HEAD + "".join(sorted(rows)), encoding="utf-8")
    sys.stdout.write("".join(sorted(rows)))


def count(report: Path) -> dict[str, Counter[str]]:
    """Return how many tests of each suite ended how."""
    counts: dict[str, Counter[str]] = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314  (pytest wrote it)
        names = [part for part in case.get("classname", "").split(".") if part in SUITES]
        if not names:
            continue
        children = {child.tag for child in case}
        failed, skipped = bool(children & {"failure", "error"}), "skipped" in children
        result = "failed" if failed else "skipped" if skipped else "passed"
        counts.setdefault(names[-1], Counter()).update([result])
    return counts


if __name__ == "__main__":
    main(sys.argv[1:])
