//! What is drawn, against goldens and at every size. `UPDATE_GOLDEN=1` writes the goldens anew.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;
use ratatui::style::Color;

use super::clean::clean;
use super::draw::{Scene, draw};
use super::look::Look;
use super::report;
use super::view::View;
use crate::api::overview::Overview;

const FULL: Look = Look {
    colour: true,
    unicode: true,
};

const PLAIN: Look = Look {
    colour: false,
    unicode: false,
};

fn overview() -> Overview {
    let text = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/top/overview.json"
    ));
    let mut json = serde_json::from_str(text).unwrap();
    clean(&mut json);
    serde_json::from_value(json).unwrap()
}

fn terminal(
    overview: &Overview,
    silent: Option<(Duration, &str)>,
    view: &mut View,
    (width, height): (u16, u16),
) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let scene = Scene {
        overview,
        silent,
        interval: Duration::from_secs(1),
    };
    terminal.draw(|frame| draw(frame, &scene, view)).unwrap();
    terminal
}

/// The text of the screen after these keys.
fn screen(
    overview: &Overview,
    silent: Option<(Duration, &str)>,
    look: Look,
    size: (u16, u16),
    keys: &[KeyCode],
) -> String {
    let mut view = View::new(look);
    terminal(overview, silent, &mut view, size);
    for key in keys {
        view.key((*key).into(), overview);
    }
    let terminal = terminal(overview, silent, &mut view, size);
    let lines = terminal.backend().to_string();
    let lines = lines.lines().map(|line| line.trim_matches('"').trim_end());
    lines.map(|line| format!("{line}\n")).collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a golden test reads its switch and its file"
)]
fn golden(name: &str, text: &str) {
    let path = format!("{}/fixtures/top/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == wanted, "{path} says otherwise:\n{text}");
}

fn typed(text: &str) -> Vec<KeyCode> {
    text.chars().map(KeyCode::Char).collect()
}

#[test]
fn every_pane_looks_as_it_did() {
    let overview = overview();
    let calm = Overview {
        config: crate::api::overview::Config {
            rejected: None,
            synchronized: true,
            ..overview.config.clone()
        },
        failures: Vec::new(),
        ..overview.clone()
    };
    let gone = Some((
        Duration::from_secs(3),
        "no gateway answers: unix:/run/smg/control.sock (connection refused)",
    ));
    for (name, overview, silent, look, size, keys) in [
        ("workers-80x24", &overview, None, FULL, (80, 24), ""),
        ("workers-160x40", &overview, None, FULL, (160, 40), "jj"),
        (
            "workers-120x30-ascii",
            &overview,
            None,
            PLAIN,
            (120, 30),
            "ssssssss",
        ),
        ("workers-40x12", &overview, None, FULL, (40, 12), ""),
        ("workers-20x6", &overview, None, FULL, (20, 6), ""),
        ("models-80x24", &overview, None, FULL, (80, 24), "2"),
        ("models-160x40", &overview, None, FULL, (160, 40), "2"),
        ("failures-80x24", &overview, None, FULL, (80, 24), "3j"),
        ("failures-160x40", &overview, None, FULL, (160, 40), "3"),
        ("config-80x24", &overview, None, FULL, (80, 24), "e"),
        ("config-80x24-end", &overview, None, FULL, (80, 24), "eG"),
        ("calm-100x24", &calm, None, FULL, (100, 24), ""),
        ("calm-failures-80x24", &calm, None, FULL, (80, 24), "3p"),
        ("gone-80x24", &overview, gone, FULL, (80, 24), ""),
        ("help-80x24", &overview, None, FULL, (80, 24), "?"),
        ("filter-80x24", &overview, None, FULL, (80, 24), "/qwen"),
        (
            "filtered-80x24",
            &overview,
            None,
            FULL,
            (80, 24),
            "/nobody\n",
        ),
    ] {
        let keys: Vec<KeyCode> = typed(keys)
            .into_iter()
            .map(|key| match key {
                KeyCode::Char('\n') => KeyCode::Enter,
                key => key,
            })
            .collect();
        golden(name, &screen(overview, silent, look, size, &keys));
    }
    let nothing = Overview::default();
    golden(
        "nothing-80x24",
        &screen(&nothing, None, FULL, (80, 24), &[]),
    );
}

#[test]
fn the_report_looks_as_it_did() {
    let text = report::text(&overview());
    assert!(text.is_ascii() && !text.chars().any(|c| c.is_control() && c != '\n'));
    golden("report", &text);
    golden("report-nothing", &report::text(&Overview::default()));
}

#[test]
fn any_size_will_do() {
    let overview = overview();
    let nothing = Overview::default();
    let sizes = (1..=12).chain([24, 40, 79, 80, 133, 300]);
    for width in sizes {
        for height in (1..=12).chain([24, 60]) {
            for look in [FULL, PLAIN] {
                for keys in ["", "2", "3GG", "eG", "?G", "/x", "sssS"] {
                    for overview in [&overview, &nothing] {
                        for silent in [None, Some((Duration::ZERO, "why"))] {
                            let size = (width, height);
                            let text = screen(overview, silent, look, size, &typed(keys));
                            assert_eq!(text.lines().count(), usize::from(height));
                        }
                    }
                }
            }
        }
    }
    // Not even one column.
    for size in [(0, 0), (0, 9), (9, 0)] {
        terminal(&overview, None, &mut View::new(FULL), size);
    }
}

#[test]
fn colours_are_of_the_sixteen_and_can_be_done_without() {
    let overview = overview();
    for keys in ["", "2", "3", "e", "?"] {
        for (look, wanted) in [(FULL, true), (PLAIN, false)] {
            let mut view = View::new(look);
            for key in typed(keys) {
                view.key(key.into(), &overview);
            }
            let terminal = terminal(&overview, None, &mut view, (160, 50));
            let cells = terminal.backend().buffer().content();
            let colours: Vec<Color> = cells
                .iter()
                .flat_map(|cell| [cell.fg, cell.bg])
                .filter(|colour| *colour != Color::Reset)
                .collect();
            assert_eq!(!colours.is_empty(), wanted, "{keys}");
            let sixteen = [Color::Red, Color::Green, Color::Yellow];
            assert!(colours.iter().all(|colour| sixteen.contains(colour)));
        }
    }
}

#[test]
fn text_of_the_gateway_does_not_reach_the_terminal_as_it_is() {
    let overview = overview();
    let text = screen(&overview, None, FULL, (200, 40), &typed("3j"));
    assert!(text.contains("req-?[2J??1m"), "{text}");
    let steers = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!text.chars().any(steers));
}
