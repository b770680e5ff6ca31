//! Changes of the files, in the ways in which files change, noticed without being asked to.

use std::os::unix::fs::symlink;

use super::*;

fn one(port: u16) -> String {
    config(&[&format!("http://127.0.0.1:{port}")])
}

async fn until_served(plane: &Plane, port: u16) {
    let wanted = [format!("http://127.0.0.1:{port}")];
    eventually(|| plane.workers() == wanted).await;
}

#[tokio::test]
async fn a_file_that_is_replaced_again_and_again() {
    let plane = Plane::start(&one(1)).await;
    for port in 2..5 {
        plane.replace(&one(port));
        until_served(&plane, port).await;
    }
    assert_eq!(status(&plane)["live"]["trigger"], "file");
    assert_eq!(plane.now().generation, 4);
}

#[tokio::test]
async fn a_half_written_file_is_refused_and_its_end_is_not() {
    let plane = Plane::start(&one(1)).await;
    let text = one(2);
    let (half, _) = text.split_at(text.len() / 2);
    plane.write(half);
    eventually(|| status(&plane)["synchronized"] == false).await;
    assert_eq!(plane.workers(), ["http://127.0.0.1:1"]);
    plane.write(&text);
    until_served(&plane, 2).await;
    assert_eq!(status(&plane)["synchronized"], true);
}

#[tokio::test]
async fn a_file_that_is_removed_and_made_again() {
    let plane = Plane::start(&one(1)).await;
    std::fs::remove_file(plane.path()).unwrap();
    eventually(|| status(&plane)["synchronized"] == false).await;
    assert_eq!(plane.workers(), ["http://127.0.0.1:1"]);
    plane.write(&one(2));
    until_served(&plane, 2).await;
}

/// As Kubernetes mounts a ConfigMap: the file is a link to `..data/smg.toml`, `..data` one to a
/// folder, and an update swaps the latter.
#[tokio::test]
async fn a_swapped_symlink() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let version = |name: &str, port| {
        std::fs::create_dir(root.join(name)).unwrap();
        std::fs::write(root.join(name).join("smg.toml"), one(port)).unwrap();
    };
    version("..1", 1);
    symlink("..1", root.join("..data")).unwrap();
    symlink("..data/smg.toml", root.join("smg.toml")).unwrap();
    let plane = Plane::start_in(folder).await;
    let root = plane.folder.path();
    for (name, port) in [("..2", 2), ("..3", 3)] {
        std::fs::create_dir(root.join(name)).unwrap();
        std::fs::write(root.join(name).join("smg.toml"), one(port)).unwrap();
        symlink(name, root.join("..fresh")).unwrap();
        std::fs::rename(root.join("..fresh"), root.join("..data")).unwrap();
        until_served(&plane, port).await;
    }
}

#[tokio::test]
async fn included_and_secret_files_and_new_ones_in_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("conf.d")).unwrap();
    let text = "version = 1\ninclude = [\"conf.d/*.toml\"]\n";
    std::fs::write(folder.path().join("smg.toml"), text).unwrap();
    let plane = Plane::start_in(folder).await;
    let folder = plane.folder.path();
    std::fs::create_dir(folder.join("keys")).unwrap();
    std::fs::write(folder.join("keys/k"), "one").unwrap();
    let pool = "[[pools]]\nname = \"p\"\nworkers = [\"http://127.0.0.1:1\"]\n\
                api_key = { file = \"../keys/k\" }\n";
    std::fs::write(folder.join("conf.d/pool.toml"), pool).unwrap();
    until_served(&plane, 1).await;
    std::fs::write(folder.join("keys/k"), "two").unwrap();
    let key = |plane: &Plane| {
        let snapshot = plane.now();
        let worker = snapshot.workers().next()?;
        worker.parts.authorization.clone()
    };
    eventually(|| key(&plane).is_some_and(|key| key == "Bearer two")).await;
    std::fs::remove_file(folder.join("conf.d/pool.toml")).unwrap();
    eventually(|| plane.workers().is_empty()).await;
}

#[tokio::test]
async fn looking_is_no_change_and_one_mistake_is_judged_once() {
    let plane = Plane::start(&one(1)).await;
    plane.replace("nonsense");
    assert_eq!(applied_or_not(&plane.reload().await), "rejected");
    let judged = status(&plane)["rejected"]["time"].clone();
    // The same content, written again: seen, read, and passed over.
    plane.replace("nonsense");
    plane.replace("nonsense");
    let other = plane.folder.path().join("unrelated");
    std::fs::write(other, "x").unwrap();
    plane.replace(&one(2));
    until_served(&plane, 2).await;
    assert_eq!(plane.now().generation, 2);
    assert_ne!(judged, Value::Null);
}

fn applied_or_not(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Applied { .. } => "applied",
        Outcome::Unchanged { .. } => "unchanged",
        Outcome::Rejected { .. } => "rejected",
    }
}
