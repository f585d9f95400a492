//! A clock of the day that the proof moves: the servers' and the database's, all at the same moment and only forwards.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use theazo::clock::{Clock as _, SystemClock};
use tokio::process::Command;

use super::sums;
use crate::place::Place;

/// Loaded before the C library into every server.
const SHIM: &str = include_str!("clock.c");
/// What the functions of the database that look at its clock are given instead of it.
const DATABASE: &str = "
    create schema proof;
    create table proof.clock (moved_ms bigint not null);
    insert into proof.clock values (0);
    create function proof.clock_timestamp() returns timestamptz language sql volatile as $$
      select pg_catalog.clock_timestamp() + make_interval(secs => moved_ms / 1000.0) from proof.clock
    $$;
    grant usage on schema proof to public;
    grant select on proof.clock to public;
    do $$
    declare name text;
    begin
      for name in select oid::regprocedure from pg_proc
          where pronamespace = 'public'::regnamespace and prosrc like '%clock_timestamp%' loop
        execute format('alter function %s set search_path = proof, pg_catalog, public, pg_temp', name);
      end loop;
    end $$";

/// An edge of a period.
#[derive(Debug, Clone, Copy)]
pub(super) enum Edge {
    Day,
    /// Which is one of a day, too.
    Month,
}

/// The moved clock.
pub(super) struct Clock {
    file: File,
    path: PathBuf,
    library: PathBuf,
    /// From which moment on, by the machine's clock, it was moved by how much.
    moves: Mutex<Vec<(i64, i64)>>,
}

/// The machine's own clock.
pub(super) fn machine_ms() -> i64 {
    SystemClock.now().millis()
}

impl Clock {
    /// A clock that is not moved yet, with its files in this folder.
    pub(super) async fn new(folder: &Path) -> anyhow::Result<Self> {
        let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
        std::fs::write(&source, SHIM)?;
        let mut compile = Command::new("cc");
        compile.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let compiled = compile.output().await.context("a C compiler, which is there wherever Rust links")?;
        ensure!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let path = folder.join("moved");
        let file = File::create(&path)?;
        file.write_all_at(&0_i64.to_ne_bytes(), 0)?;
        Ok(Self { file, path, library, moves: Mutex::new(vec![(i64::MIN, 0)]) })
    }

    /// What a program that is to follow it has in its environment.
    pub(super) fn environment(&self) -> [(&'static str, String); 2] {
        let text = |path: &Path| path.display().to_string();
        [("LD_PRELOAD", text(&self.library)), ("PROOF_CLOCK", text(&self.path))]
    }

    /// Lets the database follow it.
    pub(super) async fn lead_database(&self, place: &Place) -> anyhow::Result<()> {
        Ok(place.superuser().await?.batch_execute(DATABASE).await?)
    }

    fn moved_ms(&self) -> i64 {
        self.moves().last().map_or(0, |(_, moved)| *moved)
    }

    fn moves(&self) -> std::sync::MutexGuard<'_, Vec<(i64, i64)>> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves it to so long before the next edge, which then comes by itself. Never back.
    pub(super) async fn lead_up_to(&self, place: &Place, edge: Edge, before: Duration) -> anyhow::Result<()> {
        let before = i64::try_from(before.as_millis())?;
        let (machine, moved) = (machine_ms(), self.moved_ms());
        let edge = match edge {
            Edge::Day => sums::next_day(machine + moved + before),
            Edge::Month => sums::next_month(machine + moved + before),
        };
        let moved = edge - before - machine;
        let database = place.superuser().await?;
        self.file.write_all_at(&moved.to_ne_bytes(), 0)?;
        database.execute("update proof.clock set moved_ms = $1", &[&moved]).await?;
        self.moves().push((machine, moved));
        Ok(())
    }

    /// What it shows at a moment of the machine's clock.
    pub(super) fn shown_at(&self, machine: i64) -> i64 {
        let moves = self.moves();
        machine + moves.iter().rev().find(|(from, _)| *from <= machine).map_or(0, |(_, moved)| *moved)
    }

    /// What the machine's clock showed when this one did that. What this one has left out is when it was moved.
    pub(super) fn machine_at(&self, shown: i64) -> i64 {
        let moves = self.moves();
        let last = moves.iter().rposition(|(from, moved)| shown.saturating_sub(*moved) >= *from).unwrap_or(0);
        let (_, moved) = moves[last];
        let until = moves.get(last + 1).map_or(i64::MAX, |(from, _)| *from);
        (shown - moved).min(until)
    }
}
