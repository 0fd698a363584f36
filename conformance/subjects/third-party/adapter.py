#!/usr/bin/env python3
"""Starts somebody else's daemon so that the suite finds it: publishes a record and a credential on its behalf.

    adapter.py PROGRAM --state-dir DIR [--origin ORIGIN]...

This process becomes the daemon: its pid, its output and its signals are the daemon's own. A helper, which ends as soon as
the daemon answers, finds the port on which it listens and writes `registration.json`. Nothing passes through it later.
`README.md` says which cases are then about the daemon, and which would be about this script and are not asked.
"""

import base64
import http.client
import json
import os
import pathlib
import re
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))
import contract  # noqa: E402
import files  # noqa: E402

PROGRAMS = HERE.parents[2] / "target" / "third-party"  # where ci/third-party installs
STARTS = 60.0  # seconds


class Opencode:
    """`opencode serve` with a password, as its documentation asks for it. The launch id is its setting `username`, which
    `GET /config` shows."""

    version = "1.18.33"
    probe = "/config"

    def __init__(self, launch, credential, home):
        self.authorization = "Basic " + base64.b64encode(f"opencode:{credential}".encode()).decode()
        program = PROGRAMS / "opencode/node_modules/opencode-linux-x64/bin/opencode"
        self.command = [str(program), "serve", "--hostname", "127.0.0.1", "--port", "0"]
        settings = {"username": launch, "share": "disabled", "autoupdate": False}
        self.environment = {
            "OPENCODE_SERVER_PASSWORD": credential,
            "OPENCODE_CONFIG_CONTENT": json.dumps(settings),
            # It asks nobody on the network for models, plugins or a newer version.
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        }

    def allow(self, origins):
        for origin in origins:
            self.command += ["--cors", origin]


class JupyterServer:
    """`jupyter server` with a token of ours. The launch id stands in a section of its configuration that nothing else
    uses, which `GET /api/config/daemon` shows."""

    version = "2.21.1"
    probe = "/api/config/daemon"

    def __init__(self, launch, credential, home):
        self.authorization = f"Bearer {credential}"
        program = PROGRAMS / "jupyter_server/bin/jupyter-server"
        configuration = home / "jupyter"
        (configuration / "serverconfig").mkdir(parents=True, exist_ok=True)
        # The members that the suite looks for in the answers of a handshake that it takes for one.
        section = {"spec": contract.SPEC, "protocol": "jupyter/2", "id": launch, "pid": os.getpid()}
        section |= {"version": self.version, "state": "ready", "capabilities": []}
        (configuration / "serverconfig" / "daemon.json").write_text(json.dumps(section))
        self.command = [str(program), "--ip=127.0.0.1", "--port=0", "--no-browser", f"--ServerApp.root_dir={home}"]
        if os.geteuid() == 0:
            self.command.append("--allow-root")
        self.environment = {"JUPYTER_TOKEN": credential, "JUPYTER_CONFIG_DIR": str(configuration)}

    def allow(self, origins):
        """It takes one origin, or a pattern: here one that these origins match, and no other."""
        if origins:
            self.command.append(f"--ServerApp.allow_origin_pat=^({'|'.join(map(re.escape, origins))})$")


class Syncthing:
    """`syncthing serve` with an API key of ours, and talking to nobody else. The launch id stands in its settings for LDAP,
    which it does not use and `GET /rest/config/ldap` shows."""

    version = "1.29.5"
    probe = "/rest/config/ldap"

    def __init__(self, launch, credential, home):
        self.authorization = f"Bearer {credential}"
        configuration = home / "syncthing"
        configuration.mkdir(exist_ok=True)
        off = "globalAnnounceEnabled localAnnounceEnabled relaysEnabled natEnabled startBrowser crashReportingEnabled"
        options = {"listenAddress": "tcp://127.0.0.1:0", "urAccepted": -1, "autoUpgradeIntervalH": 0}
        options |= {"stunKeepaliveStartS": 0} | dict.fromkeys(off.split(), "false")
        # With user and password it asks for one or the key; the password is no hash, so that nothing matches it.
        gui = {"address": "127.0.0.1:0", "user": "nobody", "password": "-"}
        ldap = {"address": "syncthing", "bindDN": launch}
        text = "".join(
            f"<{part}>" + "".join(f"<{key}>{value}</{key}>" for key, value in settings.items()) + f"</{part.split()[0]}>"
            for part, settings in {'gui enabled="true"': gui, "ldap": ldap, "options": options}.items()
        )
        (configuration / "config.xml").write_text(f'<configuration version="37">{text}</configuration>')
        program = PROGRAMS / "syncthing/usr/bin/syncthing"
        self.command = [str(program), "serve", "--home", str(configuration), "--no-browser", "--no-default-folder"]
        # Without its monitor: this process is the daemon.
        self.environment = {"STGUIAPIKEY": credential, "STMONITORED": "yes", "STNOUPGRADE": "1"}

    def allow(self, origins):
        """It has no list of origins."""


KNOWN = {"opencode": Opencode, "jupyter_server": JupyterServer, "syncthing": Syncthing}


def listening(pid):
    """The ports of 127.0.0.1 on which a process listens."""
    try:
        descriptors = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
        table = pathlib.Path(f"/proc/{pid}/net/tcp").read_text()
    except OSError:
        return []
    held = {name[len("socket:[") : -1] for name in descriptors if name.startswith("socket:[")}
    lines = [line.split() for line in table.splitlines()[1:]]
    return [int(line[1].split(":")[1], 16) for line in lines if line[3] == "0A" and line[9] in held]


def answers(daemon, port, launch):
    """Whether this launch answers its probe at a port."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{daemon.probe}")
    request.add_header("Authorization", daemon.authorization)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return launch in answer.read(65536).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return False


def publish(daemon, pid, directory, launch):
    """Waits until the daemon answers, and writes the record."""
    until = time.monotonic() + STARTS
    while not (port := next((port for port in listening(pid) if answers(daemon, port, launch)), None)):
        if time.monotonic() > until:
            return
        time.sleep(0.05)
    record = {"id": launch, "version": daemon.version, "url": f"http://127.0.0.1:{port}", "pid": pid}
    files.replace(os.path.join(directory, contract.RECORD), json.dumps(record).encode())


def main():
    os.umask(0o077)
    name, option, directory, *more = sys.argv[1:]
    if option != "--state-dir" or set(more[::2]) - {"--origin"}:
        sys.exit("adapter.py PROGRAM --state-dir DIR [--origin ORIGIN]...")
    files.have_state_dir(directory)
    launch = os.urandom(16).hex()
    home = pathlib.Path.home()
    daemon = KNOWN[name](launch, contract.have_credential(directory), home)
    daemon.allow(more[1::2])
    pid = os.getpid()
    # Forked twice, so that the helper is nobody's child by the time it ends.
    if (child := os.fork()) == 0:
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in range(3):
                os.dup2(null, fd)
            publish(daemon, pid, directory, launch)
        os._exit(0)
    os.waitpid(child, 0)
    os.execve(daemon.command[0], daemon.command, os.environ | daemon.environment)


if __name__ == "__main__":
    main()
