//! wip
use local_daemon_model::{explore::*, scenario::*, world::*};
fn main() {
    let only = std::env::args().nth(1);
    for s in SCENARIOS {
        if only.as_ref().is_some_and(|o| s.name != o) { continue; }
        let setting = Setting::new(*s, u16::MAX);
        let r = explore(&setting, Search::Symmetric);
        println!("{:50} {:>9} {:>10} {:>3} {:>6.2}s", s.name, r.states, r.edges, r.depth, r.took.as_secs_f64());
        for (p, t) in &r.violations { println!("    {} {}", p.name, t.len());
            let r = explore(&setting, Search::Until(p.name));
            for (_, t) in &r.violations { println!("{}", local_daemon_model::render::trace(&setting, t)); }
        }
    }
}
