//! Tickets: once, for what they were issued for, and in time.

use std::time::{Duration, Instant};

use local_daemon::browser::{LIFE, MOST, Purpose, Refused, Secret, Tickets};

fn handoff(origin: &str) -> Purpose {
    Purpose::Handoff { origin: origin.to_owned() }
}

const ORIGIN: &str = "http://localhost:5173";

#[test]
fn a_ticket_admits_once_and_in_time() {
    let (tickets, now) = (Tickets::new(), Instant::now());
    let ticket = tickets.issue(handoff(ORIGIN), now);
    assert_eq!(ticket.expose().len(), 43);
    let redeem = |text: &str, now| tickets.redeem(text, &handoff(ORIGIN), now);
    for guess in ["", &ticket.expose()[..42], &format!("{}A", ticket.expose())] {
        assert_eq!(redeem(guess, now), Err(Refused::Unknown));
    }
    assert_eq!(redeem(ticket.expose(), now + LIFE), Ok(()));
    // A second use is one, however late it comes, and told once (BROW-47).
    assert_eq!(redeem(ticket.expose(), now + 9 * LIFE), Err(Refused::Used(handoff(ORIGIN))));
    for _ in 0..3 {
        assert_eq!(redeem(ticket.expose(), now), Err(Refused::Unknown));
    }

    let late = tickets.issue(handoff(ORIGIN), now);
    let after = now + LIFE + Duration::from_nanos(1);
    assert_eq!(redeem(late.expose(), after), Err(Refused::Unknown));
}

/// BROW-4, BROW-33: whoever presents it for something else has found it, and spends it.
#[test]
fn another_purpose_spends_a_ticket() {
    let (tickets, now) = (Tickets::new(), Instant::now());
    let purposes = [Purpose::Page, handoff(ORIGIN), handoff("http://localhost:5174")];
    for own in &purposes {
        for other in purposes.iter().filter(|other| *other != own) {
            let ticket = tickets.issue(own.clone(), now);
            let redeem = |purpose| tickets.redeem(ticket.expose(), purpose, now);
            assert_eq!(redeem(other), Err(Refused::Unknown));
            assert_eq!(redeem(own), Err(Refused::Used(own.clone())));
        }
    }
}

#[test]
fn the_number_of_tickets_is_bounded_and_the_newest_work() {
    let (tickets, now) = (Tickets::new(), Instant::now());
    let all: Vec<Secret> = (0..=MOST).map(|_| tickets.issue(Purpose::Page, now)).collect();
    let redeem = |ticket: &Secret| tickets.redeem(ticket.expose(), &Purpose::Page, now);
    assert_eq!(redeem(&all[0]), Err(Refused::Unknown));
    assert!(all[1..].iter().all(|ticket| redeem(ticket).is_ok()));
}

/// CRED-17.
#[test]
fn a_revoked_ticket_admits_nobody_and_a_used_one_stays_known() {
    let (tickets, now) = (Tickets::new(), Instant::now());
    let [fresh, used] = [(); 2].map(|()| tickets.issue(Purpose::Page, now));
    let redeem = |ticket: &Secret| tickets.redeem(ticket.expose(), &Purpose::Page, now);
    assert_eq!(redeem(&used), Ok(()));
    tickets.revoke();
    assert_eq!((redeem(&fresh), redeem(&used)), (Err(Refused::Unknown), Err(Refused::Used(Purpose::Page))));
    assert_eq!(redeem(&tickets.issue(Purpose::Page, now)), Ok(()));
}

#[test]
fn no_debug_output_shows_a_ticket() {
    let tickets = Tickets::new();
    let ticket = tickets.issue(Purpose::Page, Instant::now());
    assert!(!format!("{tickets:?} {ticket:?}").contains(ticket.expose()));
}
