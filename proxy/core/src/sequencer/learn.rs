//! Commands that the table does not have and the primary does: at their first use the primary is asked what they are, and the client
//! waits for the answer as for a gate.

use super::Sequencer;
use super::lane::{LaneId, What};
use super::session::{Admit, SessionId, Wait};
use crate::command::{Command, Table, learn, wrong_arity};
use crate::endpoint::Endpoint;
use crate::resp::encode::push_request;
use crate::resp::reply::Reply;
use crate::resp::request::Request;
use std::collections::HashMap;

/// What is known of a command beyond the table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stranger {
    /// That there is one.
    Named,
    /// The primary has been asked.
    Asked,
    /// It can be carried.
    Learnt(&'static Command),
    /// It cannot, for this reason.
    Refused(&'static str),
}

/// Those among a server's commands that the table does not have. Subcommands of what it has are not taken for commands.
pub(super) fn strangers(names: &[String]) -> HashMap<String, Stranger> {
    let containers = |name: &str| Table::get().rows().iter().any(|row| row.container() == name);
    names.iter().filter(|name| !name.contains('|') && !containers(name)).map(|name| (name.clone(), Stranger::Named)).collect()
}

/// The connection was lost: what was asked is asked anew.
pub(super) fn forget_questions(strangers: &mut HashMap<String, Stranger>) {
    strangers.values_mut().filter(|known| matches!(known, Stranger::Asked)).for_each(|known| *known = Stranger::Named);
}

impl Sequencer {
    /// The command that a request names beyond the table; None when the primary has no such command either.
    pub(super) fn stranger(&mut self, id: SessionId, request: &Request<'_>) -> Option<Result<&'static Command, Admit>> {
        let primary = self.primary();
        let name = String::from_utf8_lossy(request.arg(0)).to_ascii_uppercase();
        let side = &self.sides[primary.index()];
        let (known, major) = (*side.strangers.get(&name)?, side.major);
        Some(match known {
            Stranger::Learnt(command) if !command.accepts(request.len()) => {
                let error = wrong_arity(command, request, major);
                Err(self.refuse_request(id, &error))
            }
            Stranger::Learnt(command) => Ok(command),
            Stranger::Refused(reason) => {
                let error = format!("-ERR twinlane: {name} is not carried: {reason}; send it to both servers directly\r\n");
                Err(self.refuse_request(id, error.as_bytes()))
            }
            Stranger::Asked => Err(Admit::Wait(Wait::Gate)),
            Stranger::Named => Err(self.ask_about(id, &name)),
        })
    }

    fn ask_about(&mut self, id: SessionId, name: &str) -> Admit {
        if self.holding {
            return Admit::Wait(Wait::Gate);
        }
        let lane_id = LaneId::shared(self.primary(), 0);
        let now = self.now.us;
        let Some(lane) = self.lane_mut(lane_id).filter(|lane| lane.is_open()) else { return self.wait_for_lane(id, lane_id) };
        let mut frame = Vec::new();
        push_request(&mut frame, &[b"COMMAND", b"INFO", name.as_bytes()]);
        lane.push(&[&frame], What::Learn(name.into()), 1, now);
        self.sides[lane_id.side.index()].strangers.insert(name.to_owned(), Stranger::Asked);
        self.touch_lane(lane_id);
        Admit::Wait(Wait::Gate)
    }

    pub(super) fn answer_learn(&mut self, side: Endpoint, name: &str, reply: Reply<'_>) {
        let learnt = reply.elements().next().ok_or("the primary does not describe it").and_then(|info| learn(name, info));
        if let Err(reason) = learnt {
            self.log(true, format!("`{side}` has the command {name}, which is not carried: {reason}"));
        }
        let known = learnt.map_or_else(Stranger::Refused, Stranger::Learnt);
        self.sides[side.index()].strangers.insert(name.to_owned(), known);
        self.sessions.resume = true;
    }
}
