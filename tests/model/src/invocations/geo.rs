//! Places: sorted sets with coordinates, and searches that are stored.
use super::pool::{Gen, Kind};
use super::{Command, Invocation, cmd, write};

pub(super) const ROWS: &[Invocation] = &[
    write("GEOADD", |g| {
        let mut c = cmd!["GEOADD", g.key(Kind::Geo)];
        g.maybe(&mut c, 5, &["NX"]);
        g.maybe(&mut c, 5, &["XX"]);
        g.maybe(&mut c, 3, &["CH"]);
        for _ in 0..g.rng.between(1, 3) {
            c.extend(place(g));
            c.push(town(g));
        }
        c
    }),
    write("GEOSEARCHSTORE", |g| {
        let mut c = cmd!["GEOSEARCHSTORE", g.target(), g.key(Kind::Geo)];
        search(g, &mut c);
        g.maybe(&mut c, 3, &["STOREDIST"]);
        c
    }),
    write("GEORADIUS", |g| {
        let mut c = cmd!["GEORADIUS", g.key(Kind::Geo)];
        c.extend(place(g));
        radius(g, &mut c);
        c
    }),
    write("GEORADIUSBYMEMBER", |g| {
        let member = if g.one_in(3) { town(g) } else { b"Paris".to_vec() };
        let mut c = cmd!["GEORADIUSBYMEMBER", g.key(Kind::Geo), member];
        radius(g, &mut c);
        c
    }),
];

pub(super) fn town(g: &mut Gen) -> Vec<u8> {
    g.one(&["Palermo", "Catania", "Paris", "London", "Oslo", ""])
}

pub(super) fn place(g: &mut Gen) -> Command {
    if g.one_in(12) {
        return cmd![g.one(&["181", "x", "-200"]), g.one(&["86", "0", "-90"])];
    }
    cmd![
        g.one(&["13.361389", "15.087269", "2.349014", "-0.127758", "0", "-179.9"]),
        g.one(&["38.115556", "37.502669", "48.864716", "0", "-85"])
    ]
}

pub(super) fn search(g: &mut Gen, c: &mut Command) {
    match g.rng.below(3) {
        0 => c.extend(cmd!["FROMMEMBER", town(g)]),
        _ => {
            c.extend(cmd!["FROMLONLAT"]);
            c.extend(place(g));
        }
    }
    match g.rng.below(2) {
        0 => c.extend(cmd!["BYRADIUS", g.one(&["200", "2000", "0", "-1"]), g.one(&["km", "mi", "m", "yards"])]),
        _ => c.extend(cmd!["BYBOX", g.one(&["400", "4000"]), g.one(&["400", "4000"]), g.one(&["km", "ft"])]),
    }
    if g.one_in(2) {
        c.extend(cmd![g.one(&["ASC", "DESC"])]);
    }
    if g.one_in(3) {
        c.extend(cmd!["COUNT", g.one(&["1", "2", "0"])]);
        g.maybe(c, 4, &["ANY"]);
    }
}

fn radius(g: &mut Gen, c: &mut Command) {
    c.extend(cmd![g.one(&["200", "2000", "2000", "500", "0", "-1"]), g.one(&["km", "mi", "m", "km", "ft", "yards"])]);
    if g.one_in(3) {
        c.extend(cmd!["COUNT", g.one(&["1", "2", "3", "0"])]);
    }
    if g.one_in(2) {
        c.extend(cmd![g.one(&["ASC", "DESC"])]);
    }
    match g.rng.below(6) {
        0 => c.extend(cmd!["WITHCOORD", "WITHDIST"]),
        1 => c.extend(cmd!["STOREDIST", g.target()]),
        _ => c.extend(cmd!["STORE", g.target()]),
    }
}
