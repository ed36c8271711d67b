"""The fork server of warm agents. The worker sends it this text and a list of modules. It imports them and runs nothing.
For each run it forks a process, which enters the namespaces that the sandbox has made for that run, gives up all rights, and
becomes the program. The order is that of the sandbox's own stages, and process 1 of the run checks the outcome."""

import array
import atexit
import ctypes
import gc
import importlib
import importlib.resources
import json
import os
import resource
import runpy
import signal
import socket
import stat
import sys
import threading
import time
import types

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_SECCOMP = 1, 4, 15, 22
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, CLEAR_ALL = 24, 38, 47, 4
SECCOMP_MODE_FILTER, CAPABILITY_VERSION, LANDLOCK_RESTRICT_SELF, MOST_CAPABILITIES = 2, 0x20080522, 446, 64
# The user namespace comes first: it gives the right to enter the others.
KINDS = {"user": 0x10000000, "cgroup": 0x02000000, "mnt": 0x00020000, "net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000}
KINDS["pid"] = 0x20000000
MOST_FILES = 16
# The times of files may be behind the clock by one tick of the kernel.
TICK_NS = 20_000_000
# A file that every process may write unless Landlock forbids it.
OWN_SETTING = "/proc/self/coredump_filter"

# The name under which the worker has this text compiled.
NAME = "<warm>"

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def prctl(option, *arguments):
    numbers = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    check(libc.prctl(ctypes.c_int(option), *numbers), f"prctl {option}")


def receive(sock):
    """A message with its descriptors; an empty one is the end."""
    data, control, flags, _ = sock.recvmsg(65536, socket.CMSG_SPACE(4 * MOST_FILES), socket.MSG_CMSG_CLOEXEC)
    files = array.array("i")
    for level, kind, part in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(part[: len(part) - len(part) % 4])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise OSError("a message is too long")
    return data, list(files)


def send(sock, message, *files):
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    sock.sendmsg([json.dumps(message).encode()], control, socket.MSG_NOSIGNAL)


def text_of(file):
    return os.pread(file, os.fstat(file).st_size, 0)


def load(modules):
    """Imports the modules. Returns the paths of the files that they have opened, such as tables of data."""
    opened, listens = set(), True

    def listen(event, arguments):
        if event == "open" and listens:
            opened.add(arguments[0])

    # It stays for good, in the children too.
    sys.addaudithook(listen)
    # Libraries for numbers start threads otherwise. The variables of a run replace these.
    os.environ.update({f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "NUMEXPR")})
    # An error of a module comes again when the program imports the module itself.
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException:
            pass
    listens = False
    return opened


def read_tables():
    """Aider parses the table of models that it comes with at each start, and json5 needs 0.2 s for it: half of all the time of
    a warm run. The server parses it once. A run that reads another text, or this one again, parses it itself."""
    json5 = sys.modules.get("json5")
    if json5 is None or "aider.main" not in sys.modules:
        return
    try:
        text = importlib.resources.files("aider.resources").joinpath("model-metadata.json").read_text()
        parse, parsed = json5.loads, {text: json5.loads(text)}
    except Exception:
        # Another version of aider.
        return

    def loads(text, **options):
        known = isinstance(text, str) and text in parsed and not options
        return parsed.pop(text) if known else parse(text, **options)

    json5.loads = loads


def loaded_files(opened):
    """The files below the directories for modules that the imports have read, as they are now. Python compares size and time
    as well before it takes a compiled file for a source."""
    paths = {path for path in opened if isinstance(path, str)}
    for module in list(sys.modules.values()):
        try:
            # Without waking a module that loads itself on first use.
            paths.add(types.ModuleType.__getattribute__(module, "__dict__").get("__file__"))
        except (AttributeError, TypeError):
            pass
    directories = tuple(os.path.join(path, "") for path in sys.path if os.path.isabs(path))
    files = []
    for path in paths:
        if isinstance(path, str) and path.startswith(directories) and path.encode(errors="ignore").decode() == path:
            try:
                state = os.stat(path)
            except OSError:
                continue
            if stat.S_ISREG(state.st_mode):
                files.append((path, state))
    return files


def changed_since(files, began):
    """A file that somebody may have changed after its module was imported."""
    return next((path for path, state in files if state.st_ctime_ns >= began - TICK_NS), None)


def list_of(files):
    file = os.memfd_create("files")
    facts = [[path, state.st_ino, state.st_size, state.st_mtime_ns] for path, state in files]
    with open(file, "w", closefd=False) as text:
        json.dump(facts, text)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def open_files():
    listed = [int(name) for name in os.listdir("/proc/self/fd")]
    # One of them was the listing itself.
    return {file for file in listed if is_open(file)}


def is_open(file):
    try:
        return bool(os.fstat(file))
    except OSError:
        return False


def why_not(before):
    """A process with threads cannot be forked safely, and an open file would lead out of a run's file system."""
    threads = os.listdir("/proc/self/task")
    if len(threads) != 1:
        return f"its imports started {len(threads) - 1} threads: {[one.name for one in threading.enumerate()]}"
    left = open_files() - before
    return f"its imports left files open: {sorted(left)}" if left else None


def serve(control):
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _, (list_file,) = receive(control)
    modules = json.loads(text_of(list_file))
    os.close(list_file)
    own_namespace = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    before, began = open_files(), time.time_ns()
    # The interpreter puts the current directory first for a program that is no file.
    sys.path.pop(0)
    files = loaded_files(load(modules))
    read_tables()
    changed = changed_since(files, began)
    refused = f"{changed} changed while it was imported" if changed else why_not(before)
    if refused:
        send(control, {"refused": refused})
        return
    # Other processes of this user must not look into it, and neither into its children before they are programs.
    prctl(PR_SET_DUMPABLE, 0)
    # The kernel collects the children.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    list_file = list_of(files)
    send(control, {"refused": None}, list_file)
    os.close(list_file)
    del files
    gc.collect()
    gc.freeze()
    while True:
        _, files = receive(control)
        if not files:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            sock = socket.socket(fileno=files[0])
            try:
                join(sock, own_namespace)
            except BaseException as error:
                # Nobody hears it if the run has begun or is gone.
                send(sock, {"pid": 0, "error": repr(error)})
            finally:
                os._exit(1)
        os.close(files[0])


def join(sock, own_namespace):
    """The child of the server: enters the namespaces, and leaves the program to the first process there."""
    send(sock, {"namespace": True}, own_namespace)
    os.close(own_namespace)
    message, groups = receive(sock)
    for group in groups:
        enter_group(group)
    message, files = receive(sock)
    if not message:
        return
    room = dict(zip(json.loads(message), files))
    for kind, flag in KINDS.items():
        if kind in room:
            check(libc.setns(room[kind], flag), f"enter the {kind} namespace")
    # Only children enter the namespace of processes. The grandchild loses its parent there, and its first process adopts it.
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    parent = os.getpid()
    if os.fork():
        return
    while os.getppid() == parent:
        os.sched_yield()
    plan = json.loads(text_of(room["plan"]))
    status, groups = (os.open(f"/proc/self/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("status", "cgroup"))
    confine(plan, room, {sock.fileno(), status, groups})
    # From here it is what any program of the run may be, and process 1 may look into it.
    prctl(PR_SET_DUMPABLE, 1)
    namespaces = os.open("/proc/self/ns", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    send(sock, {"pid": os.getpid(), "landlock": has_landlock()}, status)
    send(sock, {}, groups)
    send(sock, {}, namespaces)
    go, _ = receive(sock)
    if not go:
        return
    for file in (status, groups, namespaces):
        os.close(file)
    sock.close()
    os._exit(become(plan))


def has_landlock():
    """Whether Landlock holds this process. None: it cannot be tried here."""
    try:
        os.close(os.open(OWN_SETTING, os.O_WRONLY | os.O_CLOEXEC))
    except PermissionError:
        return True
    except OSError:
        return None
    return False


def enter_group(file):
    # Process 1 of the run looks whether that has worked.
    try:
        os.write(file, b"0")
    except OSError:
        pass
    os.close(file)


def confine(plan, room, keep):
    os.setsid()
    os.chdir(bytes.fromhex(plan["directory"]))
    os.umask(plan["umask"])
    for kind, soft, hard in plan["limits"]:
        resource.setrlimit(kind, (soft, hard))
    for number, name in enumerate(("input", "output", "errors")):
        os.dup2(room[name], number)
    drop_capabilities()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if "landlock" in room:
        check(libc.syscall(ctypes.c_long(LANDLOCK_RESTRICT_SELF), ctypes.c_int(room["landlock"]), ctypes.c_uint(0)), "Landlock")
    least = 3
    for kept in sorted(keep):
        os.closerange(least, kept)
        least = kept + 1
    os.closerange(least, max(open_files()) + 1)
    for text in plan["filters"]:
        apply_filter(bytes.fromhex(text))


def drop_capabilities():
    prctl(PR_CAP_AMBIENT, CLEAR_ALL)
    for number in range(MOST_CAPABILITIES):
        # Numbers that the kernel does not know are refused.
        libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)()), "give up capabilities")


class FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def apply_filter(code):
    buffer = ctypes.create_string_buffer(code, len(code))
    program = FilterProgram(len(code) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))


def become(plan):
    """Runs the program as the interpreter would have, and returns the exit status."""
    os.environb.clear()
    os.environb.update((bytes.fromhex(name), bytes.fromhex(value)) for name, value in plan["environment"])
    time.tzset()
    new_seeds()
    argv = [os.fsdecode(bytes.fromhex(word)) for word in plan["argv"]]
    name = ctypes.create_string_buffer(os.fsencode(os.path.basename(argv[0]))[:15])
    prctl(PR_SET_NAME, ctypes.addressof(name))
    if argv[0] == sys.orig_argv[0]:
        del argv[0]
    # `-m` puts the module's file first, and `-c` stays.
    sys.argv = {"-m": ["-m", *argv[2:]], "-c": ["-c", *argv[2:]]}.get(argv[0], argv)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    gc.enable()
    try:
        execute(argv, main)
        return finish(0)
    except SystemExit as leaving:
        return finish(status_of(leaving.code))
    except KeyboardInterrupt as interrupt:
        show(interrupt)
        finish(1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 1
    except BaseException as error:
        show(error)
        return finish(1)


def execute(argv, main):
    if argv[0] == "-m":
        sys.path.insert(0, os.getcwd())
        runpy._run_module_as_main(argv[1])
    elif argv[0] == "-c":
        sys.path.insert(0, "")
        exec(compile(argv[1], "<string>", "exec"), main.__dict__)
    else:
        sys.path.insert(0, os.path.dirname(os.path.realpath(argv[0])))
        main.__file__ = argv[0]
        with open(argv[0], "rb") as file:
            code = compile(file.read(), argv[0], "exec")
        exec(code, main.__dict__)


def new_seeds():
    # Python seeds `random` again in every child, and `secrets` takes its numbers from the kernel.
    sys.modules.get("tempfile", types.SimpleNamespace()).tempdir = None
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random:
        numpy_random.seed()


def show(error):
    # The first entries are this file's.
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename == NAME:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def status_of(code):
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def finish(status):
    """What the interpreter does at its end, without taking its objects apart."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            pass
    return status


serve(control)
