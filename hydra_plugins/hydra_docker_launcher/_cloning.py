"""Clones the pinned commit into its container, before the worker runs the job there.

Like the worker, a file that needs only Python >= 3.9, and git. Where a restart policy starts the
container again, a finished clone is used as it is, and one that was not finished is begun again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess

FOLDER = "/hydra"
FINISHED = "hydra-docker-cloned"
#: In the clone's .git as well: the names of the files that it has brought.
FILES = "hydra-docker-files"
LAST_LINES = 8
#: What would lead git elsewhere, or let it leave out the contents of files.
MISLEADING = (
    "GIT_CONFIG_GLOBAL",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_LFS_SKIP_SMUDGE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_WORK_TREE",
    "XDG_CONFIG_HOME",
)


class CloneError(Exception):
    """The commit could not be cloned; the message says why, in git's words."""


def clone(folder=FOLDER):
    """Clone what ``clone.json`` in ``folder`` says. Raises ``CloneError``."""
    with open(os.path.join(folder, "clone.json"), encoding="utf-8") as file:
        wanted = json.load(file)
    finished = os.path.join(wanted["root"], ".git", FINISHED)
    if os.path.exists(finished):
        return
    print("Cloning {shown} at {commit:.12} into {root}".format(**wanted), flush=True)
    try:
        Clone(folder, wanted).make()
        with open(finished, "w", encoding="utf-8") as file:
            file.write(wanted["commit"])
    except (CloneError, OSError) as error:
        raise CloneError(
            "could not clone {shown} at {commit:.12}: {}".format(error, **wanted)
        ) from None


class Clone:
    def __init__(self, folder, wanted):
        self.url = wanted["url"]
        self.commit = wanted["commit"]
        self.root = wanted["root"]
        self.branches = wanted["branches"]
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in MISLEADING},
            "HOME": os.path.join(folder, "git"),  # of .gitconfig
            "GIT_SSH_COMMAND": "ssh -F {}".format(os.path.join(folder, "ssh_config")),
            "GIT_SSH_VARIANT": "ssh",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }

    def make(self):
        again = self.remove_rest()
        self.git("init", "--quiet")
        self.git("remote", "add", "origin", self.url)
        self.fetch()
        self.git("checkout", "--quiet", "--force", "--detach", self.commit)
        head = self.git("rev-parse", "HEAD").strip()
        if head != self.commit:
            raise CloneError("what came is commit {}".format(head))
        paths = self.submodules()
        if paths:
            if again:
                self.remove_folders(paths)
            self.update_submodules(paths)
        self.note_files()

    def note_files(self):
        """Write down what has come; the host tells by that what the job has written itself."""
        listed = self.run("ls-files", "-z", "--recurse-submodules")
        if listed.returncode != 0:
            return  # without the names, the job runs all the same
        path = os.path.join(self.root, ".git", FILES)
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(listed.stdout)

    def remove_rest(self):
        """Remove what an attempt before this one has left; tell whether there was any."""
        git_folder = os.path.join(self.root, ".git")
        again = os.path.lexists(git_folder)
        if again:
            shutil.rmtree(git_folder)
        return again

    def fetch(self):
        """Fetch the commit alone where the server gives it by its id, else the branches."""
        if self.try_fetch("--depth", "1", "origin", self.commit):
            return
        self.git("ls-remote", "--quiet", "origin", "HEAD")  # raises where there is no access
        known = ["+{0}:{0}".format(ref) for ref in self.branches]
        every = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
        for refs in (known, every) if known else (every,):
            if self.try_fetch("origin", *refs) and self.has_commit():
                return
        raise CloneError("none of its branches and tags has this commit (any more)")

    def try_fetch(self, *arguments):
        fetch = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--update-head-ok")
        return self.run(*fetch, *arguments).returncode == 0

    def has_commit(self):
        return self.run("cat-file", "-e", self.commit + "^{commit}").returncode == 0

    def submodules(self):
        fields = self.git("ls-files", "-z", "--stage").split("\0")
        return [field.split("\t", 1)[1] for field in fields if field.startswith("160000 ")]

    def update_submodules(self, paths):
        update = ("submodule", "--quiet", "update", "--init", "--recursive", "--checkout")
        if self.run(*update, "--depth", "1").returncode != 0:  # a server that gives no ids
            self.remove_folders(paths)
            shutil.rmtree(os.path.join(self.root, ".git", "modules"), ignore_errors=True)
            self.git(*update)
        for line in self.git("submodule", "status", "--recursive").splitlines():
            if not line.startswith(" "):
                raise CloneError("a submodule is not at its recorded commit: {}".format(line))

    def remove_folders(self, paths):
        mounted = mount_points()
        for path in paths:
            folder = os.path.join(self.root, path)
            if any((point + "/").startswith(folder + "/") for point in mounted):
                raise CloneError(
                    "a volume or the output folder is in the submodule {}".format(path)
                )
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder, exist_ok=True)

    def git(self, *arguments):
        """Run git and return what it prints, or raise with what it says."""
        done = self.run(*arguments)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            lines = said[-LAST_LINES:] or ["git ended with {}".format(done.returncode)]
            if any("lfs" in line and "filter" in line for line in lines) and not has_lfs():
                lines.append(
                    "It has files in Git LFS, and the image has no git-lfs: install it there."
                )
            raise CloneError("git {} failed\n{}".format(arguments[0], "\n".join(lines)))
        return done.stdout

    def run(self, *arguments):
        return subprocess.run(
            ("git", *arguments),
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )


def has_lfs():
    return shutil.which("git-lfs") is not None


def mount_points():
    with open("/proc/self/mountinfo", "rb") as file:
        fields = [line.split(b" ")[4] for line in file]
    return [os.fsdecode(field.decode("unicode_escape").encode("latin-1")) for field in fields]
