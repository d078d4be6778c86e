//! The simulation can fail: each rule of the core is turned off in turn, and some history must notice. A rule whose absence
//! nobody noticed would be a rule that nothing tests. Three are not among them, because random histories do not meet what they prevent:
//! contagion (H13), the fence of a watching EXEC (H25) and the marks of a subscriber's two streams (H30); each has a test on real
//! servers (`h13_*`, `h25_*`, `h30_*`). `TWINLANE_TRACE=1` shows what happened in the history that noticed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use twinlane_core::sequencer::Faults;
use twinlane_simulation::plan::Options;
use twinlane_simulation::run;

/// Seeds looked at before a missing rule counts as unnoticed.
const SEEDS: u64 = 3000;

fn is_noticed(rule: &str, options: &Options) {
    std::panic::set_hook(Box::new(|_| ()));
    let caught = (1..=SEEDS).find_map(|seed| run(seed, options).err());
    let _ = std::panic::take_hook();
    let Some(failure) = caught else { panic!("without {rule} {SEEDS} histories hold: nothing tests it") };
    if std::env::var_os("TWINLANE_TRACE").is_some() {
        let traced = run(failure.seed, &Options { trace: true, ..*options });
        traced.err().iter().for_each(|failure| failure.trace.iter().for_each(|line| println!("{line}")));
    }
    println!("without {rule}: seed {}: {}", failure.seed, failure.what.chars().take(200).collect::<String>());
}

fn without(faults: Faults) -> Options {
    Options { faults, ..Options::default() }
}

#[test]
fn i1_the_order_of_effects() {
    is_noticed("order", &without(Faults { no_order: true, ..Faults::default() }));
}

#[test]
fn the_rewrite_of_spop() {
    is_noticed("the rewrite of SPOP", &without(Faults { no_rewrite: true, ..Faults::default() }));
}

#[test]
fn i4_the_dirty_mark_of_a_mismatch() {
    is_noticed("the dirty mark", &without(Faults { no_dirty: true, ..Faults::default() }));
}

#[test]
fn h36_images_of_unsynced_keys() {
    is_noticed("images of unsynced keys", &without(Faults { no_unsynced: true, ..Faults::default() }));
}

#[test]
fn h15_what_scripts_are_reported_to_have_written() {
    is_noticed("reports of undeclared keys", &without(Faults { no_reports: true, ..Faults::default() }));
}

#[test]
fn h15_writes_that_hide_a_scripts_write() {
    is_noticed("images of ambiguous writes", &without(Faults { no_ambiguity: true, ..Faults::default() }));
}

#[test]
fn h33_writes_between_the_pieces_of_a_copy() {
    is_noticed("the end of torn copies", &without(Faults { torn_copies: true, ..Faults::default() }));
}

#[test]
fn h7_the_gate_behind_the_drain() {
    is_noticed("the second look at the gate", &without(Faults { no_recheck: true, ..Faults::default() }));
}

#[test]
fn h20_the_retry_directly_behind_the_write() {
    is_noticed("retries directly behind the write", &without(Faults { late_retries: true, ..Faults::default() }));
}

#[test]
fn h37_the_question_of_a_watch() {
    is_noticed("the question of a watch", &without(Faults { no_question: true, ..Faults::default() }));
}

#[test]
fn i4_the_intents_of_the_journal() {
    is_noticed("intents", &without(Faults { no_intents: true, ..Faults::default() }));
}

#[test]
fn h1_the_kill_of_predecessors() {
    is_noticed("the kill of predecessors", &Options { no_kill: true, ..Options::default() });
}

#[test]
fn h11_what_a_server_forgot_is_doubted() {
    is_noticed("the doubt of what was written last", &without(Faults { no_recent: true, ..Faults::default() }));
}
