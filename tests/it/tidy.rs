//! The house keeps its own rules: ratchets that only ever tighten.

use std::path::{Path, PathBuf};

/// Lines that a file of code may have.
const FILE_LINES: usize = 500;
/// Files that were longer when the line was drawn, with what they may have. None may be added.
const LONGER: [(&str, usize); 0] = [];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
}

/// The Rust files below these folders, by their path from the root.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut paths = vec![];
    for folder in folders {
        files(&root().join(folder), "rs", &mut paths);
    }
    let source = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().display().to_string(), text)
    };
    paths.into_iter().map(source).collect()
}

#[test]
fn no_file_is_longer_than_a_newcomer_reads() {
    for (path, text) in sources(&["domain", "projections", "src", "tests", "benches"]) {
        let may = LONGER.iter().find(|(longer, _)| *longer == path).map_or(FILE_LINES, |(_, lines)| *lines);
        assert!(text.lines().count() <= may, "{path} has {} lines; {may} is the most", text.lines().count());
    }
}

#[test]
fn the_pure_packages_depend_on_nothing_that_waits_draws_or_reads_a_clock() {
    for package in ["domain", "projections"] {
        let manifest = std::fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        for banned in ["tokio", "postgres", "axum", "rand", "chrono"] {
            assert!(!dependencies.contains(banned), "{package} depends on {banned}");
        }
    }
    for (path, text) in sources(&["domain", "projections"]) {
        for banned in ["SystemTime", "Instant::now", "async fn decide", "std::fs", "std::net"] {
            assert!(!text.contains(banned), "{path} names {banned}");
        }
    }
}

#[test]
fn transactions_are_opened_only_where_they_belong() {
    let allowed = ["src/database/", "src/log/", "src/operator.rs", "src/boot/", "src/vault/"];
    for (path, text) in sources(&["src"]) {
        let opens = text.contains("\"begin") || text.contains(".transaction()");
        assert!(!opens || allowed.iter().any(|place| path.starts_with(place)), "{path} opens a transaction");
    }
}

#[test]
fn nothing_is_looked_up_by_a_coalesce() {
    // PostgreSQL takes it for something that could leak rows, so under row-level security no index is used for it: all
    // events of a tenant were read to find the last. Select it (`= (select coalesce(…))`), and an index is.
    for (path, text) in sources(&["src"]) {
        for compared in ["= coalesce(", "> coalesce(", "< coalesce("] {
            assert!(!text.contains(compared), "{path} looks rows up by a coalesce");
        }
    }
}

#[test]
fn every_migration_is_applied_and_none_is_skipped() {
    let runner = std::fs::read_to_string(root().join("src/database/migrate.rs")).unwrap();
    let mut migrations = vec![];
    files(&root().join("migrations"), "sql", &mut migrations);
    migrations.sort();
    let mut numbers = vec![];
    for path in &migrations {
        let name = path.file_name().unwrap().to_str().unwrap();
        let number: u32 = name.split('_').next().unwrap().parse().unwrap();
        assert!(name.starts_with(&format!("{number:04}_")), "{name} does not begin with four digits");
        assert!(!numbers.contains(&number), "{name} has the number of another migration");
        let listed = runner.lines().find(|line| line.contains(name)).expect(name);
        assert!(listed.contains(&format!("\"V{number}__")), "{name} is listed under another number");
        numbers.push(number);
    }
}

#[test]
fn the_code_map_names_what_exists() {
    let map = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let named = map.lines().filter(|line| line.starts_with("| `")).flat_map(|line| {
        let cell = line.split('|').nth(1).unwrap_or_default();
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    });
    let named: Vec<String> = named.filter(|name| name.ends_with('/') || name.ends_with(".rs")).collect();
    assert!(named.len() >= 9);
    for path in &named {
        assert!(root().join(path).exists(), "the code map names {path}");
    }
    for folder in std::fs::read_dir(root().join("src")).unwrap() {
        let folder = folder.unwrap();
        let name = format!("src/{}/", folder.file_name().display());
        assert!(!folder.path().is_dir() || named.contains(&name), "the code map does not name {name}");
    }
}
