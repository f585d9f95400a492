//! What isolates programs on this machine, found out by running one.

use std::time::Duration;

use theazo_domain::id::{AgentId, SessionId};
use theazo_domain::time::Timestamp;
use ulid::Ulid;

use super::{LocalCompute, Options, cgroup, interpreter};
use crate::providers::compute::{Compute, End, Error, Language, New, Program};
use crate::random;

/// One layer of isolation, or a part of the machine that sandboxes need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What it is.
    pub name: &'static str,
    /// Whether it is there.
    pub live: bool,
    /// Whether nothing runs without it.
    pub mandatory: bool,
    /// How it was seen, or what stands in its place.
    pub detail: String,
}

/// What is asked from inside: the namespaces, and what the kernel says of the process.
const QUESTION: &str = r#"
for name in user mnt pid net ipc uts cgroup; do echo "$name $(readlink /proc/self/ns/$name)"; done
while read -r name value; do case $name in Seccomp:|NoNewPrivs:|CapEff:|CapPrm:|CapBnd:|CapInh:|CapAmb:) echo "$name $value"; esac; done < /proc/self/status
"#;

/// Looks which layers are live, by running a program in a sandbox of its own.
///
/// # Errors
/// When a layer is missing without which nothing runs ([`Error::Unsupported`] names it), or sandboxes cannot be made.
pub async fn layers(options: &Options, now: Timestamp) -> Result<Vec<Layer>, Error> {
    let unavailable = |error: std::io::Error| Error::Unavailable(error.to_string());
    let compute = LocalCompute::new(options.clone()).map_err(unavailable)?;
    let agent_id = AgentId::from_ulid(random::ulid(now));
    let session_id = SessionId::from_ulid(Ulid::from(0));
    let new = New { agent_id, session_id, browser: false, lifetime: Duration::from_secs(60) };
    let handle = compute.create(&new).await?;
    let program = Program {
        language: Language::Bash,
        code: QUESTION.to_owned(),
        environment: vec![],
        timeout: Duration::from_secs(10),
        output_limit: 16 * 1024,
    };
    let finished = compute.run(&handle, &program).await;
    compute.terminate(&handle).await?;
    let finished = finished?;
    if finished.end != End::Code(0) {
        return Err(Error::Unavailable(format!(
            "a program ended with {:?}: {}",
            finished.end, finished.stderr
        )));
    }
    let mut layers = seen(options, &finished.stdout);
    layers.extend(totals(options));
    layers.extend(interpreters(options));
    Ok(layers)
}

fn seen(options: &Options, answer: &str) -> Vec<Layer> {
    let value = |name: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_default().to_owned()
    };
    let own = |name: &str| {
        let outside = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap_or_default();
        let inside = value(name);
        !inside.is_empty() && outside.as_os_str() != inside.as_str()
    };
    let layer =
        |name, live, mandatory, detail: &str| Layer { name, live, mandatory, detail: detail.to_owned() };
    let namespaces: Vec<&str> =
        ["user", "mnt", "pid", "ipc", "uts", "cgroup"].into_iter().filter(|name| own(name)).collect();
    let none = ["CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:"]
        .iter()
        .all(|set| value(set).trim_start_matches('0').is_empty());
    let network =
        if options.network { "shared with the host, as configured" } else { "none but its own loopback" };
    vec![
        layer("namespaces", namespaces.len() == 6, true, &namespaces.join(", ")),
        layer("network namespace", own("net") != options.network, true, network),
        layer("no capabilities", none, true, "every set is empty"),
        layer("no_new_privs", value("NoNewPrivs:") == "1", true, "set"),
        layer("seccomp", value("Seccomp:") == "2", true, "a list of calls that are allowed"),
    ]
}

fn totals(options: &Options) -> Vec<Layer> {
    let by_group = cgroup::complete(&options.cgroups);
    let how = match by_group {
        true => "by cgroup",
        false => "no cgroup is named: by limits of each process, and a watch over the process namespace",
    };
    let user = match nix::unistd::Uid::effective().is_root() {
        true => format!("one of {} to {} for each sandbox", options.host_ids.start, options.host_ids.end - 1),
        false => "the server's own, mapped".to_owned(),
    };
    let totals = "by the size of each file, and a watch over all of them";
    vec![
        Layer { name: "memory and processes", live: true, mandatory: true, detail: how.to_owned() },
        Layer { name: "disk", live: true, mandatory: true, detail: totals.to_owned() },
        Layer { name: "user of the host", live: true, mandatory: true, detail: user },
    ]
}

fn interpreters(options: &Options) -> Vec<Layer> {
    let found = |name: &'static str| {
        let path = interpreter::find(options, name);
        let detail =
            path.as_ref().map_or("none that sandboxes can see".to_owned(), |path| path.display().to_string());
        Layer { name, live: path.is_some(), mandatory: false, detail }
    };
    ["python3", "node", "bash"].into_iter().map(found).collect()
}
