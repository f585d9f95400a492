//! What programs can do, and how their ends are told apart.

use std::time::Duration;

use theazo::providers::compute::{Compute, End, Error, Language, Program};
use zeroize::Zeroizing;

use super::{Sandboxes, program, wrote};

#[tokio::test]
async fn each_language_runs_in_the_workspace() {
    let sandboxes = Sandboxes::new();
    let (_, handle) = sandboxes.create().await;
    let python = "import os, sys\nprint(os.getcwd(), sys.version_info.major, 'é')";
    wrote(&sandboxes.run(&handle, Language::Python, python).await, "/workspace 3 é\n");
    let bash = "echo \"$PWD ${BASH_VERSION%%.*}\" | tr '0-9' 'V'";
    wrote(&sandboxes.run(&handle, Language::Bash, bash).await, "/workspace V\n");
    let module = "import fs from 'node:fs';\nconst { sep } = require('path');\nconst n = await Promise.resolve(4);\n\
                  fs.writeFileSync('made', 'by node');\nconsole.log(process.cwd(), sep, n)";
    wrote(&sandboxes.run(&handle, Language::TypeScript, module).await, "/workspace / 4\n");
    wrote(&sandboxes.run(&handle, Language::Bash, "cat made").await, "by node");
}

#[tokio::test]
async fn programs_find_modules_of_the_workspace() {
    let sandboxes = Sandboxes::new();
    let (_, handle) = sandboxes.create().await;
    sandboxes.compute.write_file(&handle, "own.py", b"NUMBER = 7").await.unwrap();
    sandboxes.compute.write_file(&handle, "own.mjs", b"export const number = 8").await.unwrap();
    let python = sandboxes.run(&handle, Language::Python, "import own; print(own.NUMBER)").await;
    wrote(&python, "7\n");
    let module = "import { number } from './own.mjs'; console.log(number)";
    wrote(&sandboxes.run(&handle, Language::TypeScript, module).await, "8\n");
}

#[tokio::test]
async fn the_environment_is_the_programs_own() {
    let sandboxes = Sandboxes::new();
    let (new, handle) = sandboxes.create().await;
    let secret = ("SECRET".to_owned(), Zeroizing::new("of the customer".to_owned()));
    let asked = Program {
        environment: vec![secret],
        ..program(Language::Bash, "env | grep -v -e ^_= -e ^SHLVL= | sort")
    };
    let finished = sandboxes.compute.run(&handle, &asked).await.unwrap();
    let (agent, session) = (new.agent_id, new.session_id);
    let expected = format!(
        "HOME=/tmp\nLANG=C.UTF-8\nPATH=/usr/local/bin:/usr/bin:/bin\nPWD=/workspace\nPYTHONPATH=/workspace\n\
         SECRET=of the customer\nTHEAZO_AGENT_ID={agent}\nTHEAZO_SESSION_ID={session}\n"
    );
    wrote(&finished, &expected);
}

#[tokio::test]
async fn all_the_secrets_that_an_agent_may_see_fit_into_the_environment() {
    let sandboxes = Sandboxes::new();
    let (_, handle) = sandboxes.create().await;
    let value = Zeroizing::new("x".repeat(65_000));
    let secrets: Vec<_> = (0..16).map(|number| (format!("SECRET_{number}"), value.clone())).collect();
    for (language, code) in [
        (Language::Bash, "echo ${#SECRET_15}; bash -c 'echo ${#SECRET_15}'"),
        (Language::Python, "import os; print(len(os.environ['SECRET_15'])); os.system('echo ${#SECRET_0}')"),
    ] {
        let asked = Program { environment: secrets.clone(), ..program(language, code) };
        wrote(&sandboxes.compute.run(&handle, &asked).await.unwrap(), "65000\n65000\n");
    }
}

#[tokio::test]
async fn nobody_types_to_a_program() {
    let sandboxes = Sandboxes::new();
    let (_, handle) = sandboxes.create().await;
    let each = [
        (Language::Bash, "cat; echo read"),
        (Language::Python, "import sys; print(repr(sys.stdin.read()) and 'read')"),
        (
            Language::TypeScript,
            "for await (const _ of process.stdin); console.log(require('fs').readFileSync(0, 'utf8') + 'read')",
        ),
    ];
    for (language, code) in each {
        wrote(&sandboxes.run(&handle, language, code).await, "read\n");
    }
}

#[tokio::test]
async fn codes_and_signals_and_timeouts_are_told_apart() {
    let sandboxes = Sandboxes::new();
    let (_, handle) = sandboxes.create().await;
    let ends = [
        (Language::Bash, "exit 7", End::Code(7)),
        (Language::Bash, "exit 137", End::Code(137)),
        (Language::Bash, "kill -9 $$", End::Signal(9)),
        (Language::Bash, "kill -TERM $$", End::Signal(15)),
        (Language::Bash, "ulimit -c 0; kill -SEGV $$", End::Signal(11)),
        (Language::Python, "raise SystemExit(3)", End::Code(3)),
        (Language::Python, "1/0", End::Code(1)),
        (Language::Python, "import os; os.abort()", End::Signal(6)),
        (Language::TypeScript, "process.exit(5)", End::Code(5)),
        (Language::TypeScript, "throw new Error('no')", End::Code(1)),
        (
            Language::TypeScript,
            "process.kill(process.pid, 'SIGKILL'); setInterval(() => {}, 1e6)",
            End::Signal(9),
        ),
    ];
    for (language, code, end) in ends {
        let finished = sandboxes.run(&handle, language, code).await;
        assert_eq!(finished.end, end, "{code}: {finished:?}");
    }
    let endless = Program {
        timeout: Duration::from_millis(600),
        ..program(Language::Bash, "echo began; sleep 600 & wait")
    };
    let finished = sandboxes.compute.run(&handle, &endless).await.unwrap();
    assert_eq!((finished.end, &*finished.stdout), (End::TimedOut, "began\n"));
}

#[tokio::test]
async fn outputs_are_told_apart_and_cut_at_their_limit() {
    let sandboxes = Sandboxes::new();
    let (_, handle) = sandboxes.create().await;
    let finished = sandboxes.run(&handle, Language::Bash, "echo one; echo two >&2; printf '\\xff'").await;
    assert_eq!((&*finished.stdout, &*finished.stderr), ("one\n\u{fffd}", "two\n"));
    assert!(!finished.truncated);
    let much =
        Program { output_limit: 1_000, ..program(Language::Bash, "head -c 5000000 /dev/zero; echo x >&2") };
    let finished = sandboxes.compute.run(&handle, &much).await.unwrap();
    assert_eq!((finished.stdout.len(), &*finished.stderr, finished.truncated), (1_000, "x\n", true));
    assert_eq!(finished.end, End::Code(0), "what is beyond was read");
}

#[tokio::test]
async fn a_program_may_be_long() {
    let sandboxes = Sandboxes::new();
    let (_, handle) = sandboxes.create().await;
    let filler = "#".repeat(1_000_000);
    wrote(&sandboxes.run(&handle, Language::Python, &format!("{filler}\nprint(1)")).await, "1\n");
    wrote(&sandboxes.run(&handle, Language::Bash, &format!("{filler}\necho 2")).await, "2\n");
    let module = format!("//{filler}\nconsole.log(3)");
    wrote(&sandboxes.run(&handle, Language::TypeScript, &module).await, "3\n");
}

#[tokio::test]
async fn programs_have_children_threads_and_a_network_of_their_own() {
    let sandboxes = Sandboxes::new();
    let (_, handle) = sandboxes.create().await;
    let code = "
import subprocess, threading, multiprocessing, socket, tempfile, sqlite3
print(subprocess.run(['uname', '-n'], capture_output=True, text=True).stdout.strip())
seen = []
threads = [threading.Thread(target=seen.append, args=(n,)) for n in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
with multiprocessing.Pool(3) as pool: print(sum(pool.map(abs, range(-10, 0))), len(seen))
server = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(server.getsockname()); client.sendall(b'over loopback')
print(server.accept()[0].recv(64).decode())
with tempfile.NamedTemporaryFile() as file: print(file.name.startswith('/tmp/'))
print(sqlite3.connect('kept.db').execute('pragma journal_mode = wal').fetchone()[0])
";
    let finished = sandboxes.run(&handle, Language::Python, code).await;
    wrote(&finished, "sandbox\n55 8\nover loopback\nTrue\nwal\n");
}

#[tokio::test]
async fn programs_of_one_agent_share_its_workspace_at_the_same_time() {
    let sandboxes = Sandboxes::new();
    let (_, handle) = sandboxes.create().await;
    let reader =
        program(Language::Bash, "until read -r line < said 2>/dev/null; do sleep 0.01; done; echo \"$line\"");
    let writer = program(Language::Bash, "echo hello > new; mv new said; sleep 0.2");
    let (read, written) =
        tokio::join!(sandboxes.compute.run(&handle, &reader), sandboxes.compute.run(&handle, &writer));
    wrote(&read.unwrap(), "hello\n");
    wrote(&written.unwrap(), "");
}

#[tokio::test]
async fn a_missing_interpreter_is_named() {
    let sandboxes = Sandboxes::with(|options| options.search = vec!["/nowhere".into()]);
    let (_, handle) = sandboxes.create().await;
    let error = sandboxes.compute.run(&handle, &program(Language::TypeScript, "")).await.unwrap_err();
    let Error::Unsupported(text) = error else { panic!("{error}") };
    assert!(text.contains("node") && text.contains("/nowhere"), "{text}");
}

#[tokio::test]
async fn programs_of_one_agent_share_its_totals() {
    let sandboxes = Sandboxes::with(|options| options.limits.memory_bytes = 256 << 20);
    let (_, handle) = sandboxes.create().await;
    let large = program(
        Language::Python,
        "import os, time\nm = b'x' * (150 << 20)\nopen(f'large{os.urandom(4).hex()}', 'w')\n\
         while sum(n.startswith('large') for n in os.listdir()) < 2: time.sleep(0.02)\ntime.sleep(3)",
    );
    let (one, other) =
        tokio::join!(sandboxes.compute.run(&handle, &large), sandboxes.compute.run(&handle, &large));
    let ends = [one.unwrap(), other.unwrap()];
    let ended: Vec<_> =
        ends.iter().filter(|finished| finished.stderr.contains("256 MiB of memory")).collect();
    assert!(!ended.is_empty(), "{ends:?}");
    assert!(ended.iter().all(|finished| finished.end == End::Signal(9)), "{ends:?}");
}
