//! Using up what everybody needs.

use theazo::providers::compute::Language::{Bash, Python, TypeScript};

use super::Expected::{Ended, Held, Over};
use super::Hostile;

pub(super) const TABLE: &[Hostile] = &[
    ("a fork bomb", Bash, ":(){ :|:& }; : ; : & : & wait; sleep 1; echo held", Ended),
    ("a fork bomb by Python", Python, "while True:\n  try: os.fork()\n  except OSError: pass", Ended),
    (
        "many processes",
        Python,
        "n = 0\ntry:\n  for n in range(500):\n    if os.fork() == 0: time.sleep(60)\nexcept OSError: print('held' if n <= 64 else 'BREACH')",
        Held,
    ),
    (
        "many threads",
        Python,
        "n = 0\nthreading.stack_size(65536)\ntry:\n  for n in range(500): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nexcept RuntimeError: print('held' if n <= 64 else 'BREACH'); sys.stdout.flush(); os._exit(0)",
        Held,
    ),
    ("much memory at once", Python, "attempt(lambda: len(bytearray(4 << 30)))", Held),
    (
        "much memory bit by bit",
        Python,
        "m = []\ndef more():\n  while True: m.append(bytearray(1 << 20))\nattempt(more)",
        Held,
    ),
    (
        "much memory by node",
        TypeScript,
        "const all = []; for (;;) all.push(new Array(1e6).fill(Math.random()))",
        Ended,
    ),
    (
        "much memory by node's buffers",
        TypeScript,
        "const all = []; for (;;) all.push(Buffer.alloc(1 << 24, 1))",
        Ended,
    ),
    (
        "much memory by many",
        Python,
        "for _ in range(6):\n  if os.fork() == 0: break\nm = bytearray(b'x' * (100 << 20)); time.sleep(6)",
        Over("memory"),
    ),
    (
        "much memory that is shared",
        Python,
        "import mmap\nm = mmap.mmap(-1, 2 << 30)\nfor n in range(0, 2 << 30, 4096): m[n] = 1\nprint('BREACH')",
        Over("memory"),
    ),
    (
        "much memory that is a file",
        Bash,
        "head -c 300M /dev/zero > /dev/shm/x; stat -c %s /dev/shm/x | grep -qE '^[0-9]{1,8}$' && echo held",
        Held,
    ),
    ("much memory by Bash", Bash, "x=x; while :; do x=$x$x; done", Ended),
    (
        "one large file",
        Python,
        "def fill():\n  with open('x', 'wb') as f:\n    while True: f.write(bytes(1 << 20))\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nattempt(fill)",
        Ended,
    ),
    (
        "many large files",
        Python,
        "for n in range(20):\n  with open(f'x{n}', 'wb') as f: f.write(b'x' * (20 << 20)); f.flush(); os.fsync(f.fileno())\ntime.sleep(4); print('BREACH')",
        Over("disk"),
    ),
    (
        "large files without a name",
        Python,
        "kept = []\nfor n in range(20):\n  f = open('x', 'wb'); os.unlink('x'); f.write(b'x' * (20 << 20)); f.flush(); os.fsync(f.fileno()); kept.append(f)\ntime.sleep(4); print('BREACH')",
        Over("disk"),
    ),
    (
        "a large file by allocation",
        Python,
        "attempt(lambda: os.posix_fallocate(os.open('x', os.O_CREAT | os.O_WRONLY), 0, 10 << 30))",
        Ended,
    ),
    (
        "large files by allocation",
        Python,
        "for n in range(20): os.posix_fallocate(os.open(f'x{n}', os.O_CREAT | os.O_WRONLY), 0, 60 << 20)\ntime.sleep(4); print('BREACH')",
        Over("disk"),
    ),
    (
        "room that is taken without writing",
        Python,
        "file = os.open('x', os.O_CREAT | os.O_WRONLY)\nattempt(lambda: refused(libc.fallocate(file, 0, ctypes.c_long(0), ctypes.c_long(1 << 20))))",
        Held,
    ),
    (
        "files in a folder that is shut",
        Python,
        "os.mkdir('d')\nfor n in range(10):\n  with open(f'd/{n}', 'wb') as f: f.write(b'x' * (20 << 20)); f.flush(); os.fsync(f.fileno())\nos.chmod('d', 0); time.sleep(5); print('BREACH')",
        Over("disk"),
    ),
    (
        "many files",
        Python,
        "for n in range({FILES}): os.close(os.open('f%d' % n, os.O_CREAT | os.O_WRONLY))\ntime.sleep(6); print('BREACH')",
        Over("files"),
    ),
    (
        "folders without end",
        Python,
        "for n in range(20000): os.mkdir('d'); os.chdir('d')\ntime.sleep(6); print('BREACH')",
        Over("folders"),
    ),
    (
        "the other folder",
        Bash,
        "for n in 1 2 3 4 5; do head -c 20M /dev/zero > /tmp/$n; done; sync; sleep 5; echo BREACH",
        Over("disk"),
    ),
    (
        "many open files",
        Python,
        "kept = []\ndef open_all():\n  while True: kept.append(open('/dev/null'))\nattempt(open_all)",
        Held,
    ),
    (
        "many sockets",
        Python,
        "kept = []\ndef open_all():\n  while True: kept.append(socket.socketpair())\nattempt(open_all)",
        Held,
    ),
    ("output without end", Bash, "yes BREAC & yes BREAC >&2", Ended),
    ("output without end by node", TypeScript, "for (;;) process.stdout.write('x'.repeat(65536))", Ended),
    ("time without end", Bash, "while :; do :; done", Ended),
    (
        "a daemon that stays",
        Python,
        "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)\n  os._exit(0)\nprint('held')",
        Held,
    ),
    ("a daemon of Bash", Bash, "nohup setsid sleep 600 > /dev/null 2>&1 & disown; echo held", Held),
    ("a process that is stopped", Bash, "sleep 600 & kill -STOP $!; echo held", Held),
    (
        "a process that ignores signals",
        Bash,
        "(trap '' TERM INT HUP QUIT; while :; do sleep 600; done) & echo held",
        Held,
    ),
    ("stopping itself", Bash, "kill -STOP $$; echo BREACH", Ended),
    ("closing its outputs and staying", Bash, "exec >&- 2>&-; sleep 600", Ended),
    (
        "many timers",
        Python,
        "timer = ctypes.c_long()\ndef make():\n  for _ in range(100000): refused(libc.timer_create(0, None, ctypes.byref(timer)))\nattempt(make)",
        Held,
    ),
    (
        "many pipes",
        Python,
        "kept = []\ndef make():\n  while True: kept.append(os.pipe())\nattempt(make)",
        Held,
    ),
    (
        "orphans that become zombies",
        Bash,
        "for n in $(seq 300); do (sleep 0.01 &) ; done 2>/dev/null; sleep 0.3; echo held",
        Held,
    ),
];
