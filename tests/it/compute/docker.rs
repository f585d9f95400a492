//! Compute at a Docker host.

use std::time::Duration;

use theazo::providers::client::Clients;
use theazo::providers::compute::docker::{Docker, NamedBy, Settings, Workspace};
use theazo::providers::compute::{Compute, Error, Handle, New};
use theazo::providers::guard::Guard;

use super::{agent, lives, wanted};
use crate::support::cluster::Scratch;
use crate::support::vendors::docker::Docker as Server;
use crate::support::vendors::{Fault, Wire};

fn settings(workspace: Workspace) -> Settings {
    Settings { workspace, ..Settings::of("org_1 live".to_owned()) }
}

struct Fixture {
    wire: Wire,
    server: Server,
    compute: Docker,
}

async fn fixture(workspace: Workspace) -> Fixture {
    let server = Server::default();
    let wire = Wire::serve(server.clone()).await;
    let host = format!("tcp://{}", wire.address);
    let compute = Docker::new(&host, NamedBy::Operator, settings(workspace)).unwrap();
    Fixture { wire, server, compute }
}

#[tokio::test]
async fn an_agent_lives_in_a_container_whose_workspace_is_in_memory() {
    let Fixture { wire, server, compute } = fixture(Workspace::Memory).await;
    wire.split();
    lives(&compute).await;
    assert!(server.host.lock().unwrap().containers.is_empty());
    wire.satisfied();
}

#[tokio::test]
async fn an_agent_lives_in_a_container_over_a_unix_socket_and_its_volume_goes_with_it() {
    for workspace in [Workspace::Quota, Workspace::Volume] {
        let scratch = Scratch::new();
        let path = scratch.path.join("docker.sock");
        let server = Server::default();
        let wire = Wire::serve_unix(server.clone(), &path);
        let host = format!("unix://{}", path.display());
        let compute = Docker::new(&host, NamedBy::Operator, settings(workspace)).unwrap();
        lives(&compute).await;
        let held = server.host.lock().unwrap();
        assert!(held.containers.is_empty() && held.volumes.is_empty());
        wire.satisfied();
    }
}

#[tokio::test]
async fn a_pause_freezes_what_is_in_memory_and_stops_what_is_on_disk() {
    for (workspace, running) in [(Workspace::Memory, true), (Workspace::Volume, false)] {
        let Fixture { wire: _wire, server, compute } = fixture(workspace).await;
        let handle = compute.create(&wanted(1)).await.unwrap();
        let paused = compute.pause(&handle).await.unwrap();
        let is = |server: &Server| {
            let held = server.host.lock().unwrap();
            let container = held.containers.values().next().unwrap();
            (container.running, container.paused)
        };
        assert_eq!(is(&server), (running, running));
        assert_eq!(compute.pause(&paused.handle).await, Ok(paused.clone()));
        assert_eq!(compute.stored_bytes(&paused.handle).await, Ok(paused.stored_bytes));
        compute.resume(&paused.handle, &wanted(1)).await.unwrap();
        assert_eq!(is(&server), (true, false));
    }
}

#[tokio::test]
async fn a_pause_and_an_awakening_that_break_are_looked_after_and_done_once() {
    let memory = (Workspace::Memory, "pause", "unpause");
    let volume = (Workspace::Volume, "stop", "start");
    for (workspace, pause, awaken) in [memory, volume] {
        let Fixture { wire, server, compute } = fixture(workspace).await;
        let handle = compute.create(&wanted(1)).await.unwrap();
        let at = |order: &str| format!("POST /containers/theazo-{}/{order}", agent(1));
        for fault in [Fault::CutBefore, Fault::CutAfter] {
            wire.fault(&at(pause), fault);
        }
        wire.seen();
        let paused = compute.pause(&handle).await.unwrap();
        for fault in [Fault::CutBefore, Fault::CutAfter] {
            wire.fault(&at(awaken), fault);
        }
        assert_eq!(compute.resume(&paused.handle, &wanted(1)).await, Ok(handle.clone()));
        let seen = wire.seen();
        let orders = [pause, awaken].map(|order| seen.iter().filter(|line| **line == at(order)).count());
        assert_eq!(orders, [2, 2], "{seen:?}");
        // A pause that nobody heard of any more: whoever asks again finds it done.
        for _ in 0..=theazo::config::COMPUTE_REPEATS {
            wire.fault(&format!("GET /containers/theazo-{}/json", agent(1)), Fault::CutBefore);
        }
        assert!(matches!(compute.pause(&handle).await, Err(Error::Unavailable(_))));
        for container in server.host.lock().unwrap().containers.values_mut() {
            (container.running, container.paused) =
                (workspace == Workspace::Memory, workspace == Workspace::Memory);
        }
        assert_eq!(compute.pause(&handle).await, Ok(paused));
        wire.satisfied();
    }
}

#[tokio::test]
async fn what_docker_refuses_is_told_in_its_words_and_leaves_nothing() {
    let Fixture { wire, server, .. } = fixture(Workspace::Volume).await;
    let host = format!("tcp://{}", wire.address);
    let missing = Settings { image: "missing".to_owned(), ..settings(Workspace::Volume) };
    let compute = Docker::new(&host, NamedBy::Operator, missing).unwrap();
    let refused = compute.create(&wanted(1)).await;
    assert_eq!(refused, Err(Error::Refused("No such image: missing".to_owned())));

    let compute = Docker::new(&host, NamedBy::Operator, settings(Workspace::Volume)).unwrap();
    let browser = New { browser: true, ..wanted(1) };
    assert!(matches!(compute.create(&browser).await, Err(Error::Unsupported(_))));
    wire.fault("/start", Fault::Status(500, vec![], r#"{"message":"no space left"}"#.to_owned()));
    assert_eq!(compute.create(&wanted(1)).await, Err(Error::Refused("no space left".to_owned())));
    wire.fault("/start", Fault::CutBefore);
    assert!(matches!(compute.create(&wanted(1)).await, Err(Error::Unavailable(_))));
    {
        let held = server.host.lock().unwrap();
        assert!(held.containers.is_empty() && held.volumes.is_empty());
    }
    let gone = Handle(format!("theazo-{}", agent(7)));
    assert_eq!(compute.list_files(&gone, "", 1).await, Err(Error::Gone));
    assert_eq!(compute.resume(&gone, &wanted(7)).await, Err(Error::Gone));
    wire.satisfied();
}

#[tokio::test]
async fn containers_and_volumes_that_a_crash_left_are_found_and_released() {
    let Fixture { wire, server, compute } = fixture(Workspace::Volume).await;
    for number in 1..=3 {
        compute.create(&wanted(number)).await.unwrap();
    }
    // An agent that is made again has an empty workspace.
    let handle = compute.create(&wanted(1)).await.unwrap();
    assert_eq!(compute.list_files(&handle, "", 9).await, Ok(vec![]));
    let interrupted = format!("theazo-{}", agent(2));
    server.host.lock().unwrap().containers.remove(&interrupted);
    let other = Settings::of("org_2 live".to_owned());
    let host = format!("tcp://{}", wire.address);
    assert_eq!(Docker::new(&host, NamedBy::Operator, other).unwrap().list().await, Ok(vec![]));
    let found = compute.list().await.unwrap();
    assert_eq!(found.iter().map(|(agent, _)| *agent).collect::<Vec<_>>(), [agent(1), agent(2), agent(3)]);
    for (_, handle) in &found {
        compute.terminate(handle).await.unwrap();
    }
    assert_eq!(compute.list().await, Ok(vec![]));
    wire.satisfied();
}

#[tokio::test]
async fn a_workspace_in_memory_is_gone_with_its_host() {
    let Fixture { wire: _wire, server, compute } = fixture(Workspace::Memory).await;
    let handle = compute.create(&wanted(1)).await.unwrap();
    let paused = compute.pause(&handle).await.unwrap();
    for container in server.host.lock().unwrap().containers.values_mut() {
        (container.running, container.paused) = (false, false);
    }
    assert_eq!(compute.resume(&paused.handle, &wanted(1)).await, Err(Error::Gone));
    assert_eq!(compute.list_files(&handle, "", 1).await, Err(Error::Gone));
}

#[tokio::test]
async fn a_host_that_never_answers_costs_its_deadline() {
    let Fixture { wire, compute, .. } = fixture(Workspace::Memory).await;
    compute.create(&wanted(1)).await.unwrap();
    wire.fault("/containers/json", Fault::Silence);
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    assert!(matches!(compute.list().await, Err(Error::Unavailable(_))));
    assert!(begun.elapsed() <= theazo::config::COMPUTE_DEADLINE + Duration::from_secs(1));
    wire.satisfied();
}

#[tokio::test]
async fn a_customer_names_public_docker_hosts_only() {
    let guarded = || NamedBy::Customer(Clients::new(Guard::default()).guarded);
    for host in ["unix:///var/run/docker.sock", "npipe://x", "http://example.com"] {
        assert!(matches!(
            Docker::new(host, guarded(), settings(Workspace::Memory)),
            Err(Error::Unsupported(_))
        ));
    }
    let Fixture { wire, .. } = fixture(Workspace::Memory).await;
    for host in [format!("tcp://{}", wire.address), format!("tcp://localhost:{}", wire.address.port())] {
        let compute = Docker::new(&host, guarded(), settings(Workspace::Memory)).unwrap();
        assert!(matches!(compute.create(&wanted(1)).await, Err(Error::Refused(_))), "{host}");
    }
    assert_eq!(wire.seen(), Vec::<String>::new());
}
