//! `twinlane adopt`: the operator's word, when state directory, servers and configuration do not agree (I8, H9).
//!
//! It shows what each of them says, proposes one new record with an epoch above all of them, and writes it (directory first,
//! then both servers) only with `--yes`. The hard case is a configuration whose two names were swapped: "primary new" in
//! an old record then means the other server, so names are translated by address, or by what the server was called.

use super::{AdoptArgs, exit};
use crate::config::{Config, Layers, load};
use crate::start::{Probe, Unusable, probe, write_mark};
use crate::store::{Audit, Entry, Mark, NewData, Record, Store, instances, new_installation, note_instances};
use std::collections::BTreeSet;
use std::process::ExitCode;
use twinlane_core::endpoint::Endpoint;

/// What the three witnesses say.
struct Found {
    local: Option<Record>,
    /// Old first; `None` when out of reach.
    sides: [Option<Side>; 2],
    addresses: [String; 2],
}

struct Side {
    mark: Option<Mark>,
    keys: u64,
}

/// What the operator said.
#[derive(Default)]
struct Wish {
    primary: Option<Endpoint>,
    new_data: Option<NewData>,
}

/// Runs the verb.
pub(super) fn run(args: &AdoptArgs) -> ExitCode {
    let layers = Layers::of_process(args.place.config.clone(), args.place.flags());
    let config = match load(&layers) {
        Ok(config) => config,
        Err(mistakes) => return end(exit::USAGE, &mistakes.to_string()),
    };
    match adopt(&config, args) {
        Ok(code) => code,
        Err(error) => end(exit::FAILED, &error.to_string()),
    }
}

fn adopt(config: &Config, args: &AdoptArgs) -> anyhow::Result<ExitCode> {
    let mut store = Store::open_for_adoption(&config.state_dir)?;
    let targets = config.targets()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (old, new) = runtime.block_on(async { tokio::join!(probe(&targets[0]), probe(&targets[1])) });
    let addresses = [targets[0].address(), targets[1].address()];
    show(store.record(), &addresses, [&old, &new]);

    let holders = holders([&old, &new], &instances(store.directory()));
    for holder in &holders {
        println!("in use by:        instance {holder}, which is connected now; its connections are killed when this one starts");
    }
    let found = Found { local: store.record().cloned(), sides: [side(old), side(new)], addresses };
    let wish = Wish { primary: args.primary.as_deref().map(endpoint), new_data: args.new_data.as_deref().map(new_data) };
    let record = match propose(&found, &wish, new_installation().map_err(|error| anyhow::anyhow!("{error}"))?) {
        Ok(record) => record,
        Err(reason) => return Ok(end(exit::REFUSED, &reason)),
    };
    println!("new record:       {}", describe(&record));
    if !args.yes {
        return Ok(end(exit::REFUSED, "nothing was changed; say --yes to write this record"));
    }
    note_instances(store.directory(), &holders)?;
    // The directory first: it is the authority. A mark that fails is mended by the next start or adopt.
    store.commit(&record)?;
    // Both are told the same: what was forgotten before the operator spoke is not asked for again.
    let count = found.sides.iter().flatten().filter_map(|side| side.mark.as_ref()).map(|mark| mark.count).max().unwrap_or(0);
    for target in &targets {
        if found.sides[target.side.index()].is_some() {
            runtime.block_on(write_mark(target, &record, count))?;
        }
    }
    let audit = Audit::open(&config.state_dir)?;
    audit.note(&Entry::now("command line", "adopt", &describe(&record), "done"));
    println!("adopted");
    Ok(ExitCode::SUCCESS)
}

/// Other processes that have connections to a server: whoever adopts takes over from them (H10).
fn holders(probes: [&Result<Probe, Unusable>; 2], ours: &[String]) -> Vec<String> {
    let probes = probes.into_iter().filter_map(|probe| probe.as_ref().ok());
    let found = probes.flat_map(|probe| probe.neighbours.iter().flatten()).map(|neighbour| neighbour.instance.clone());
    let others: BTreeSet<String> = found.filter(|instance| !ours.contains(instance)).collect();
    others.into_iter().collect()
}

/// The new record, or why the operator must say more.
fn propose(found: &Found, wish: &Wish, fresh: String) -> Result<Record, String> {
    let marks: Vec<(Endpoint, &Mark)> =
        Endpoint::BOTH.into_iter().filter_map(|side| Some((side, found.sides[side.index()].as_ref()?.mark.as_ref()?))).collect();
    let primary = match wish.primary {
        Some(primary) => primary,
        None => known_primary(found, &marks)?,
    };
    if found.sides[primary.index()].is_none() {
        return Err(format!("{primary} ({}) would be primary and cannot be used now; see above", found.addresses[primary.index()]));
    }
    let local = found.local.as_ref();
    let epochs = marks.iter().map(|(_, mark)| mark.epoch).chain(local.map(|record| record.epoch));
    let mut names = marks.iter().map(|(_, mark)| &mark.installation).chain(local.map(|record| &record.installation));
    let installation = match names.next() {
        Some(first) if names.all(|name| name == first) => {
            marks.first().map_or_else(|| local.map(|record| &record.installation), |(_, mark)| Some(&mark.installation))
        }
        _ => None,
    };
    let mut record =
        Record::first(installation.cloned().unwrap_or(fresh), found.addresses.clone(), new_data_of(found, wish, !marks.is_empty()));
    record.epoch = epochs.max().unwrap_or(0) + 1;
    record.primary = primary;
    if let Some(local) = local {
        // An ended migration stays ended: the other endpoint may belong to somebody else by now.
        (record.mirroring, record.completed) = (local.mirroring, local.completed);
    }
    Ok(record)
}

/// Who is primary by the newest witness, in the words of this configuration.
fn known_primary(found: &Found, marks: &[(Endpoint, &Mark)]) -> Result<Endpoint, String> {
    let by_local = found.local.as_ref().map(|record| (record.epoch, &record.installation, by_address(record, &found.addresses)));
    // A server that was called `new` and said "primary new" is the primary, whatever it is called now.
    let by_mark = |(side, mark): &(Endpoint, &Mark)| if mark.primary == mark.side { *side } else { side.other() };
    let witnesses: Vec<(u64, &String, Option<Endpoint>)> =
        marks.iter().map(|found| (found.1.epoch, &found.1.installation, Some(by_mark(found)))).chain(by_local).collect();
    let Some(newest) = witnesses.iter().max_by_key(|witness| witness.0) else {
        return Err("neither the state directory nor a server has a record: there is nothing to adopt. Start with `twinlane serve`, or name the primary by --primary".into());
    };
    let agree = witnesses.iter().all(|witness| witness.1 == newest.1);
    let clear = witnesses.iter().filter(|witness| witness.0 == newest.0).all(|witness| witness.2 == newest.2);
    match newest.2 {
        Some(primary) if agree && clear => Ok(primary),
        _ => Err("the records found do not agree on who is primary; say which one holds the data by --primary old or --primary new".into()),
    }
}

fn by_address(record: &Record, addresses: &[String; 2]) -> Option<Endpoint> {
    let home = record.addresses()[record.primary.index()];
    Endpoint::BOTH.into_iter().find(|endpoint| addresses[endpoint.index()] == home)
}

/// Nothing on `new` is deleted without a word: what is not known is kept.
fn new_data_of(found: &Found, wish: &Wish, marked: bool) -> NewData {
    let empty = found.sides[1].as_ref().is_some_and(|side| side.keys == 0);
    match (wish.new_data, &found.local) {
        (Some(said), _) => said,
        (None, Some(record)) if marked => record.new_data,
        _ if empty => NewData::Empty,
        _ => NewData::Keep,
    }
}

fn side(probe: Result<Probe, Unusable>) -> Option<Side> {
    probe.ok().map(|probe| Side { keys: probe.keys(), mark: probe.mark })
}

fn show(local: Option<&Record>, addresses: &[String; 2], probes: [&Result<Probe, Unusable>; 2]) {
    println!("state directory:  {}", local.map_or_else(|| "no record".into(), describe));
    for endpoint in Endpoint::BOTH {
        let words = match probes[endpoint.index()] {
            Ok(probe) => format!("{} keys, {}", probe.keys(), probe.mark.as_ref().map_or_else(|| "no record".into(), ToString::to_string)),
            Err(unusable) => unusable.reason.clone(),
        };
        println!("{endpoint} {:<13} {words}", addresses[endpoint.index()]);
    }
}

fn describe(record: &Record) -> String {
    let [old, new] = record.addresses();
    let mirroring = if record.mirroring { "on" } else { "off" };
    format!(
        "installation {}, epoch {}, primary {}, mirroring {mirroring}, old = {old}, new = {new}",
        record.installation, record.epoch, record.primary
    )
}

fn endpoint(word: &str) -> Endpoint {
    if word == "new" { Endpoint::New } else { Endpoint::Old }
}

fn new_data(word: &str) -> NewData {
    if word == "overwrite" { NewData::Overwrite } else { NewData::Keep }
}

fn end(code: u8, text: &str) -> ExitCode {
    eprintln!("twinlane: {text}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: [&str; 2] = ["a:1", "b:2"];

    fn mark(side: Endpoint, installation: &str, epoch: u64, primary: Endpoint) -> Option<Side> {
        Some(Side { keys: 3, mark: Some(Mark { installation: installation.into(), epoch, primary, side, count: 0 }) })
    }

    fn bare(keys: u64) -> Option<Side> {
        Some(Side { keys, mark: None })
    }

    fn local(epoch: u64, primary: Endpoint) -> Option<Record> {
        let mut record = Record::first("i1".into(), HOME.map(str::to_owned), NewData::Overwrite);
        (record.epoch, record.primary) = (epoch, primary);
        Some(record)
    }

    /// `installation epoch primary new_data`, or a part of the refusal.
    fn check(local: Option<Record>, sides: [Option<Side>; 2], addresses: [&str; 2], wish: &Wish, expect: &str) {
        let found = Found { local, sides, addresses: addresses.map(str::to_owned) };
        let result = match propose(&found, wish, "fresh".into()) {
            Ok(record) => format!("{} {} {} {:?}", record.installation, record.epoch, record.primary, record.new_data),
            Err(reason) => reason,
        };
        assert!(result.contains(expect), "{expect:?} in {result:?}");
    }

    #[test]
    fn h9_what_is_adopted() {
        use Endpoint::{New, Old};
        let none = &Wish::default();
        let say = |primary| Wish { primary: Some(primary), new_data: None };
        // The state directory is lost: the servers agree.
        check(None, [mark(Old, "i1", 4, New), mark(New, "i1", 4, New)], HOME, none, "i1 5 new Keep");
        // One of them is a step behind.
        check(None, [mark(Old, "i1", 3, Old), mark(New, "i1", 4, New)], HOME, none, "i1 5 new Keep");
        // The directory is older than the servers.
        check(local(2, Old), [mark(Old, "i1", 4, New), mark(New, "i1", 4, New)], HOME, none, "i1 5 new Overwrite");
        // Directory lost and names swapped: the server that was `new` is now called `old`, and stays primary.
        check(None, [mark(New, "i1", 4, New), mark(Old, "i1", 4, New)], HOME, none, "i1 5 old Keep");
        // Names swapped, directory there: by address.
        check(local(4, New), [bare(1), bare(1)], ["b:2", "a:1"], none, "i1 5 old");
        // The mirror moved to another server; then the primary did.
        check(local(4, New), [bare(1), mark(New, "i1", 4, New)], ["c:3", "b:2"], none, "i1 5 new Overwrite");
        check(local(4, New), [bare(1), bare(1)], ["a:1", "c:3"], none, "do not agree");
        check(local(4, New), [bare(1), bare(1)], ["a:1", "c:3"], &say(New), "i1 5 new");
        // Two installations.
        check(None, [mark(Old, "i1", 4, Old), mark(New, "i2", 9, New)], HOME, none, "do not agree");
        check(None, [mark(Old, "i1", 4, Old), mark(New, "i2", 9, New)], HOME, &say(Old), "fresh 10 old Keep");
        // Nothing is known.
        check(None, [bare(5), bare(0)], HOME, none, "nothing to adopt");
        check(None, [bare(5), bare(0)], HOME, &say(Old), "fresh 1 old Empty");
        let overwrite = Wish { primary: Some(Old), new_data: Some(NewData::Overwrite) };
        check(None, [bare(5), bare(2)], HOME, &overwrite, "fresh 1 old Overwrite");
        // The primary is out of reach.
        check(None, [mark(Old, "i1", 4, New), None], HOME, none, "new (b:2) would be primary and cannot be used");
        check(None, [mark(Old, "i1", 4, New), None], HOME, &say(Old), "i1 5 old Keep");
    }
}
