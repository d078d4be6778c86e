//! Prints `docs/commands.md`.

fn main() {
    print!("{}", twinlane_tests::commands_page::page());
}
