"""What runs inside a sandbox at a vendor's: reads one request as a line of JSON, from standard input or from a file that
its second argument names, carries it out below the workspace, and answers with one line of JSON on standard output. Its
first argument is the name of the piece of work. Python 3.8 or newer, nothing but its library."""

import base64
import ctypes
import errno
import json
import os
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

PLACE = os.path.join(tempfile.gettempdir(), "theazo-" + str(os.getuid()))


class Failure(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def private(kind, name):
    """A file of our own outside the workspace. Names are made by the server: letters and digits."""
    folder = os.path.join(PLACE, kind)
    os.makedirs(folder, 0o700, exist_ok=True)
    if not name.isalnum():
        raise Failure("failed", "not a name: " + name)
    return os.path.join(folder, name)


# Paths: every name is opened from its folder without following links, so that what is checked is what is used.

def resolved(workspace, path):
    if "\0" in path or path.startswith("/") or ".." in path.split("/"):
        raise Failure("path", "must be a path within the workspace, without '..': " + path)
    root = os.path.realpath(workspace)
    real = os.path.realpath(os.path.join(root, path))
    if real != root and not real.startswith(root + "/"):
        raise Failure("path", "leads out of the workspace: " + path)
    return root, [part for part in real[len(root):].split("/") if part]


def folder(root, parts, make=False):
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    at = os.open(root, flags)
    for part in parts:
        try:
            if make:
                try:
                    os.mkdir(part, 0o755, dir_fd=at)
                except FileExistsError:
                    pass
            below = os.open(part, flags, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at


def write(request):
    root, parts = resolved(request["workspace"], request["path"])
    if not parts or request["path"].endswith("/"):
        raise Failure("path", "names a folder: " + request["path"])
    content = base64.b64decode(request["content"])
    at = folder(root, parts[:-1], make=True)
    try:
        mode = 0o644
        try:
            there = os.stat(parts[-1], dir_fd=at, follow_symlinks=False)
            if not stat.S_ISREG(there.st_mode):
                raise Failure("path", "names something that is not a file: " + request["path"])
            mode = stat.S_IMODE(there.st_mode)
        except FileNotFoundError:
            pass
        name = ".theazo-" + os.urandom(8).hex()
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=at)
        try:
            with os.fdopen(file, "wb") as writer:
                writer.write(content)
                os.fchmod(writer.fileno(), mode)
            os.rename(name, parts[-1], src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            os.unlink(name, dir_fd=at)
            raise
    finally:
        os.close(at)
    return {}


def read(request):
    root, parts = resolved(request["workspace"], request["path"])
    if not parts:
        raise Failure("path", "names a folder: " + request["path"])
    at = folder(root, parts[:-1])
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(parts[-1], flags, dir_fd=at)
    finally:
        os.close(at)
    with os.fdopen(file, "rb") as reader:
        if not stat.S_ISREG(os.fstat(reader.fileno()).st_mode):
            raise Failure("path", "names something that is not a file: " + request["path"])
        content = reader.read(request["limit"] + 1)
    kept = content[:request["limit"]]
    return {"content": base64.b64encode(kept).decode(), "truncated": len(content) > len(kept)}


def listing(request):
    root, parts = resolved(request["workspace"], request["path"])
    at = folder(root, parts)
    try:
        entries = []
        for name in sorted(os.listdir(at), key=os.fsencode)[:request["limit"]]:
            try:
                there = os.stat(name, dir_fd=at, follow_symlinks=False)
            except FileNotFoundError:
                continue
            shown = os.fsencode(name).decode("utf-8", "replace")
            if stat.S_ISDIR(there.st_mode):
                entries.append({"name": shown + "/", "size": 0})
            else:
                entries.append({"name": shown, "size": there.st_size})
    finally:
        os.close(at)
    return {"entries": entries}


def measure(request):
    total, seen = 0, set()
    for where, folders, files in os.walk(request["workspace"]):
        for name in folders + files:
            try:
                there = os.lstat(os.path.join(where, name))
            except OSError:
                continue
            if (there.st_dev, there.st_ino) not in seen:
                seen.add((there.st_dev, there.st_ino))
                total += there.st_blocks * 512
    return {"bytes": total}


# Programs.

def parents():
    """The parent of every process that can be seen."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/" + name + "/stat", "rb") as file:
                    found[int(name)] = int(file.read().rsplit(b")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                pass
    return found


def descendants(top):
    of = parents()
    found, grew = {top}, True
    while grew:
        more = {pid for pid, parent in of.items() if parent in found} - found
        grew = bool(more)
        found |= more
    return found - {top}


def end_all(top):
    """Ends everything below a process. What loses its parent in the meantime comes back to a subreaper, so that the
    next round finds it."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = descendants(top)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if top == os.getpid():
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
        elif not left:
            return
        time.sleep(0.005)


def command(language, code, place):
    program = os.path.join(place, "program")
    with open(program, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(code)
    interpreter = {"python": "python3", "typescript": "node", "bash": "bash"}[language]
    if shutil.which(interpreter) is None:
        raise Failure("unsupported", interpreter + " is missing in the sandbox's image")
    if language == "python":
        return ["python3", "-"], program
    if language == "typescript":
        return ["node", "--input-type=module", "-"], program
    return ["bash", program], os.devnull


class Outputs:
    """Reads both outputs of a program, and keeps so many bytes of each."""

    def __init__(self, process, limit):
        self.kept = {process.stdout: bytearray(), process.stderr: bytearray()}
        self.limit, self.truncated = limit, False
        self.selector = selectors.DefaultSelector()
        for pipe in self.kept:
            os.set_blocking(pipe.fileno(), False)
            self.selector.register(pipe, selectors.EVENT_READ)

    def take(self, timeout):
        """Reads what is there within this time; whether there was anything."""
        ready = [key.fileobj for key, _ in self.selector.select(timeout)]
        for pipe in ready:
            if pipe not in self.kept:
                os.read(pipe, 64)
                continue
            data = os.read(pipe.fileno(), 65536)
            if not data:
                self.selector.unregister(pipe)
            room = self.limit - len(self.kept[pipe])
            self.kept[pipe] += data[:room]
            self.truncated = self.truncated or len(data) > room
        return any(pipe in self.kept for pipe in ready)


def run(request):
    # Orphans of the program come to us instead of to the first process, so that none is left.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    place = tempfile.mkdtemp(prefix="theazo-")
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    try:
        argv, source = command(request["language"], request["code"], place)
        environment = dict(os.environ)
        environment.update(dict(request["environment"]))
        environment["THEAZO_RUN"] = sys.argv[1]
        began = time.monotonic()
        with open(source, "rb") as standard_input:
            process = subprocess.Popen(argv, stdin=standard_input, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       cwd=request["workspace"], env=environment, start_new_session=True)
        outputs = Outputs(process, request["outputLimit"])
        outputs.selector.register(wake, selectors.EVENT_READ)
        deadline = began + request["timeoutMs"] / 1000
        while process.poll() is None and time.monotonic() < deadline:
            outputs.take(max(0, deadline - time.monotonic()))
        duration = time.monotonic() - began
        timed_out = process.returncode is None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            pass
        if timed_out:
            process.wait()
        end_all(os.getpid())
        while outputs.take(0):
            pass
    finally:
        shutil.rmtree(place, ignore_errors=True)
    code = process.returncode
    end = {"timedOut": True} if timed_out else {"signal": -code} if code < 0 else {"code": code}
    encode = lambda pipe: base64.b64encode(bytes(outputs.kept[pipe])).decode()
    return {"stdout": encode(process.stdout), "stderr": encode(process.stderr), "end": end,
            "truncated": outputs.truncated, "durationMs": int(duration * 1000)}


def kill(request):
    """Ends a run from outside it: its supervisor, known by the name in its arguments, all below, and whatever has lost
    its supervisor and is known by its environment."""
    name = request["run"].encode()
    for pid in [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]:
        try:
            with open("/proc/%d/cmdline" % pid, "rb") as file:
                is_supervisor = name in file.read().split(b"\0")[-3:]
            with open("/proc/%d/environ" % pid, "rb") as file:
                is_below = b"THEAZO_RUN=" + name in file.read().split(b"\0")
        except OSError:
            continue
        if pid == os.getpid() or not (is_supervisor or is_below):
            continue
        for each in [*descendants(pid), pid]:
            try:
                os.kill(each, signal.SIGKILL)
            except OSError:
                pass
    return {}


def end_everything(_):
    """Ends every process of this user but the sandbox's first, which has to be ours, and this one."""
    with open("/proc/1/cmdline", "rb") as file:
        if b"signal.sigwait(wanted)" not in file.read():
            raise Failure("failed", "the first process is not the sandbox's")
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return {}


def open_to_all(request):
    """Lets the sandbox's user write in a workspace that belongs to root; the owner needs no capability for that."""
    os.chmod(request["workspace"], 0o1777)
    return {}


# For vendors whose calls are short: requests in pieces, runs that outlive the call, answers in pieces.

def stage(request):
    with open(private("requests", request["name"]), "ab") as file:
        file.write(base64.b64decode(request["data"]))
    return {}


def staged(request):
    path = private("requests", request["name"])
    with open(path, "rb") as file:
        inner = json.loads(file.read())
    os.unlink(path)
    return carry_out(inner)


def launch(request):
    """Carries out a request in the background, and waits a little for its answer."""
    path = private("answers", request["name"])
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        with open(path + ".part", "w") as file:
            file.write(json.dumps(answer(request["request"])))
        os.rename(path + ".part", path)
        os._exit(0)
    return collect(request)


def collect(request):
    """A piece of an answer once it is there; with its last piece it is forgotten."""
    path = private("answers", request["name"])
    deadline = time.monotonic() + request["waitMs"] / 1000
    while not os.path.exists(path):
        if time.monotonic() >= deadline:
            return {"pending": True}
        time.sleep(0.02)
    with open(path, "rb") as file:
        file.seek(request["offset"])
        piece = file.read(request["limit"])
        total = os.fstat(file.fileno()).st_size
    if request["offset"] + len(piece) >= total:
        os.unlink(path)
    return {"piece": piece.decode(), "total": total}


def prepare(request):
    os.makedirs(request["workspace"], 0o755, exist_ok=True)
    return {}


OPERATIONS = {"prepare": prepare, "run": run, "write": write, "read": read, "list": listing, "measure": measure, "kill": kill, "end_everything": end_everything, "open_to_all": open_to_all,
               "stage": stage, "staged": staged, "launch": launch, "collect": collect}


def carry_out(request):
    return OPERATIONS[request["operation"]](request)


def answer(request):
    try:
        return carry_out(request)
    except Failure as failure:
        return {"error": {"code": failure.code, "message": str(failure)}}
    except OSError as failure:
        about_path = failure.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES,
                                       errno.EPERM, errno.ENAMETOOLONG, errno.EEXIST, errno.ENXIO)
        code = "path" if about_path and "path" in request else "failed"
        named = request["path"] + ": " if code == "path" else ""
        return {"error": {"code": code, "message": named + (failure.strerror or str(failure))}}
    except ValueError as failure:
        return {"error": {"code": "failed", "message": str(failure)}}


def main():
    # The whole line is read before anything runs: some callers cannot close what we read from.
    if len(sys.argv) > 2:
        with open(sys.argv[2], "rb") as file:
            line = file.read()
        os.unlink(sys.argv[2])
    else:
        line = sys.stdin.buffer.readline()
    sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
    sys.stdout.flush()


main()
