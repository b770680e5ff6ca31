use super::*;

#[test]
fn the_headline_says_what_counts() {
    for (figures, text) in [
        ((0, 0, 0), "No workers"),
        ((1, 0, 0), "1 worker ready"),
        ((8, 0, 0), "All 8 workers ready"),
        ((8, 0, 1), "7 workers ready, 1 draining"),
        ((8, 2, 0), "2 of 8 workers down"),
        ((8, 8, 0), "8 of 8 workers down"),
        ((1, 1, 0), "1 of 1 worker down"),
        ((8, 2, 1), "2 of 8 workers down, 1 draining"),
    ] {
        let (total, down, draining) = figures;
        assert_eq!(headline(total, down, draining), text);
    }
}

#[test]
fn who_needs_a_look_comes_first() {
    let one = |id: &str, ready: bool, reason: &str| overview::Worker {
        id: id.to_owned(),
        ready,
        reason: reason.to_owned(),
        ..overview::Worker::default()
    };
    let shown = pool(&overview::Pool {
        workers: vec![
            one("a", true, ""),
            one("b", false, "draining"),
            one("c", false, "its health probes fail"),
            one("d", true, ""),
        ],
        ..overview::Pool::default()
    });
    let ids: Vec<&str> = shown.workers.iter().map(|worker| &*worker.id).collect();
    assert_eq!(ids, ["c", "b", "a", "d"]);
    assert_eq!((shown.state, &*shown.summary), ("trying", "2 of 4 ready"));
}

#[test]
fn the_title_tells_the_state() {
    let mut overview = Overview {
        pools: vec![overview::Pool {
            workers: vec![
                overview::Worker::default(),
                overview::Worker {
                    ready: true,
                    ..overview::Worker::default()
                },
            ],
            ..overview::Pool::default()
        }],
        ..Overview::default()
    };
    assert_eq!(of(&overview).title, "smg · 1 of 2 workers down");
    overview.phase = "draining".to_owned();
    overview.config.rejected = Some(overview::Rejected::default());
    let title = "smg · reload rejected · draining · 1 of 2 workers down";
    assert_eq!(of(&overview).title, title);
}

#[test]
fn a_moment_of_another_day_has_its_date() {
    let now = 1_700_000_000_000;
    let shown = moment(now - 65_000, now);
    assert_eq!((&*shown.text, &*shown.ago), ("22:12:15", "1 min ago"));
    assert_eq!(shown.iso, "2023-11-14T22:12:15Z");
    assert_eq!(moment(now - 90_000_000, now).text, "2023-11-13 21:13");
}
