//! Traces and tables for people.

use std::fmt::Write;

use crate::{
    explore::Trace,
    world::{Action, Log, Setting, World},
};

/// A trace, one numbered line per step: who, what, and whose record is there then.
pub fn trace(setting: &Setting, trace: &Trace) -> String {
    let mut world = setting.initial();
    let mut text = String::new();
    let mut number = 0;
    let mut lines = |actions: &[Action], world: &mut World, text: &mut String| {
        for action in actions {
            number += 1;
            let mut log = Log::kept();
            let possible = setting.act(world, *action, &mut log);
            debug_assert!(possible, "a trace of this setting");
            let (who, what, record) = (action.who(), log.said(), setting.record(world));
            writeln!(text, "{number:3}. {who:<5}{what:<72} record={record}").expect("a string takes everything");
        }
    };
    lines(&trace.steps, &mut world, &mut text);
    if !trace.cycle.is_empty() {
        text.push_str("     and then, for ever:\n");
        lines(&trace.cycle, &mut world, &mut text);
    }
    text
}
