//! `docs/commands.md` says what the table of commands says.

use twinlane_tests::commands_page::{page, stray_notes};

#[test]
fn the_page_of_commands_is_not_stale() {
    let stale = include_str!("../../docs/commands.md") != page();
    assert!(!stale, "run: cargo run -p twinlane-tests --bin commands_page > docs/commands.md");
    assert_eq!(stray_notes(), Vec::<&str>::new(), "docs/commands.notes.tsv");
}
