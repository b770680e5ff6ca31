//! What operators, editors and orchestrators do to a configuration while it is in use.

use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;

use crate::support::Smg;

/// How often the configuration is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tempo {
    /// About twice a second.
    Calm,
    /// As fast as it is taken.
    Storm,
}

/// Changes the configuration for ever; each change ends with a valid file. `variant` makes one.
pub(crate) async fn keep_editing(
    smg: &Smg,
    tempo: Tempo,
    variant: impl Fn(u64) -> String,
    mut rng: Rng,
    done: impl Fn(&'static str),
) -> String {
    loop {
        match edit(smg, &variant, &mut rng).await {
            Ok(what) => done(what),
            Err(wrong) => return wrong,
        }
        let pause = match tempo {
            Tempo::Calm => rng.u64(200..800),
            Tempo::Storm => rng.u64(0..30),
        };
        sleep(Duration::from_millis(pause)).await;
    }
}

async fn edit(
    smg: &Smg,
    variant: &impl Fn(u64) -> String,
    rng: &mut Rng,
) -> Result<&'static str, String> {
    let good = variant(rng.u64(0..16));
    match rng.u8(0..7) {
        0 => {
            smg.rewrite(&good);
            Ok("edit seen by the watcher")
        }
        1 => {
            smg.rewrite(&good);
            accepted(smg, "an edit").await?;
            Ok("edit and reload")
        }
        2 => {
            smg.rewrite(&format!("{good}\n[[pools]]\nname = \"ro"));
            rejected(smg, "an unfinished file").await?;
            smg.rewrite(&good);
            Ok("file with a syntax error")
        }
        3 => {
            smg.rewrite(&good.replace("fallback = [\"rough\"]", "fallback = [\"nobody\"]"));
            rejected(smg, "a file that names nobody").await?;
            smg.rewrite(&good);
            accepted(smg, "the good file after it").await?;
            Ok("file that makes no sense")
        }
        4 => {
            // In place, and caught in the act: the end of a string is missing.
            let (half, _) = good.split_once("[[models]]").unwrap();
            let torn = format!("{half}[[models]]\nname = \"ca");
            std::fs::write(smg.config_path(), torn).unwrap();
            sleep(Duration::from_millis(rng.u64(0..150))).await;
            std::fs::write(smg.config_path(), &good).unwrap();
            Ok("torn write")
        }
        5 => {
            swap_links(smg.folder(), &smg.config_path(), &good);
            accepted(smg, "a swapped link").await?;
            Ok("link swapped")
        }
        _ => {
            smg.rewrite(&good);
            for _ in 0..20 {
                smg.sighup();
            }
            Ok("20 times SIGHUP")
        }
    }
}

/// The file becomes a link into a folder of its own, as mounted configurations are.
fn swap_links(folder: &Path, config: &Path, good: &str) {
    let fresh = folder.join(format!("..{}", fastrand::u64(..)));
    std::fs::create_dir(&fresh).unwrap();
    std::fs::write(fresh.join("smg.toml"), good).unwrap();
    let old = std::fs::read_link(config);
    let link = folder.join("..link");
    std::os::unix::fs::symlink(fresh.join("smg.toml"), &link).unwrap();
    std::fs::rename(link, config).unwrap();
    if let Ok(old) = old {
        std::fs::remove_dir_all(old.parent().unwrap()).unwrap();
    }
}

async fn accepted(smg: &Smg, what: &str) -> Result<(), String> {
    let reload = smg.reload().await;
    match reload.result() {
        "applied" | "unchanged" => Ok(()),
        _ => Err(format!("{what} was not accepted: {reload:?}")),
    }
}

/// A rejected file changes nothing.
async fn rejected(smg: &Smg, what: &str) -> Result<(), String> {
    let before = smg.status().await["live"].clone();
    let reload = smg.reload().await;
    let after = smg.status().await["live"].clone();
    if reload.status != 422 || reload.result() != "rejected" {
        return Err(format!("{what} was accepted: {reload:?}"));
    }
    // A good file of before may have been taken over in between, by the watcher; not this one.
    if before["sha256"] != after["sha256"] && before["generation"] == after["generation"] {
        return Err(format!("{what} changed {before} to {after}"));
    }
    Ok(())
}
