//! Tickets: once, for what they were issued for, and in time.
#![cfg(feature = "daemon")]

use std::time::{Duration, Instant};

use local_daemon::browser::{LIFE, MOST, Purpose, Refused, Ticket, Tickets};

fn handoff(origin: &str) -> Purpose {
    Purpose::Handoff {
        origin: origin.to_owned(),
    }
}

#[test]
fn a_ticket_admits_once_for_its_purpose_and_in_time() {
    let (tickets, now) = (Tickets::new(), Instant::now());
    let ticket = tickets.issue(handoff("http://localhost:5173"), now);
    assert_eq!(ticket.expose().len(), 43);
    for other in [Purpose::Page, handoff("http://localhost:5174")] {
        assert_eq!(
            tickets.redeem(ticket.expose(), &other, now),
            Err(Refused::Unknown)
        );
    }
    let purpose = handoff("http://localhost:5173");
    for guess in ["", &ticket.expose()[..42], &format!("{}A", ticket.expose())] {
        assert_eq!(tickets.redeem(guess, &purpose, now), Err(Refused::Unknown));
    }
    assert_eq!(tickets.redeem(ticket.expose(), &purpose, now + LIFE), Ok(()));
    assert_eq!(tickets.redeem(ticket.expose(), &purpose, now), Err(Refused::Used));

    let late = tickets.issue(Purpose::Page, now);
    let after = now + LIFE + Duration::from_nanos(1);
    assert_eq!(
        tickets.redeem(late.expose(), &Purpose::Page, after),
        Err(Refused::Unknown)
    );
}

#[test]
fn the_number_of_tickets_is_bounded_and_the_newest_work() {
    let (tickets, now) = (Tickets::new(), Instant::now());
    let all: Vec<Ticket> = (0..=MOST).map(|_| tickets.issue(Purpose::Page, now)).collect();
    let redeem = |ticket: &Ticket| tickets.redeem(ticket.expose(), &Purpose::Page, now);
    assert_eq!(redeem(&all[0]), Err(Refused::Unknown));
    assert!(all[1..].iter().all(|ticket| redeem(ticket).is_ok()));
}

#[test]
fn no_debug_output_shows_a_ticket() {
    let tickets = Tickets::new();
    let ticket = tickets.issue(Purpose::Page, Instant::now());
    assert!(!format!("{tickets:?} {ticket:?}").contains(ticket.expose()));
}
