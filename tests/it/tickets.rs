//! Tickets: once, for what they were issued for, and in time.

use std::time::{Duration, Instant};

use local_daemon::browser::{
    Host, IssuedTicket, MAX_TICKETS, Purpose, RedeemError, TICKET_LIFETIME, TicketState, Tickets,
};
use local_daemon::registration::LoopbackHost;

fn handoff(origin: &str) -> Purpose {
    Purpose::Handoff { origin: origin.to_owned() }
}

const PAGE: Purpose = Purpose::Page { host: Host::Page };
const ORIGIN: &str = "http://localhost:5173";

#[test]
fn a_ticket_admits_once_and_in_time() {
    let (tickets, now) = (Tickets::new(), Instant::now());
    let ticket = tickets.issue(handoff(ORIGIN), now);
    assert_eq!(ticket.secret.expose().len(), 43);
    let redeem = |text: &str, now| tickets.redeem(text, &handoff(ORIGIN), now);
    for guess in [
        "",
        &ticket.secret.expose()[..42],
        &format!("{}A", ticket.secret.expose()),
    ] {
        assert_eq!(redeem(guess, now), Err(RedeemError::Unknown));
    }
    assert_eq!(redeem(ticket.secret.expose(), now + TICKET_LIFETIME), Ok(()));
    // A second use is reported, however late it is, and once (BROW-34, BROW-47).
    assert_eq!(
        redeem(ticket.secret.expose(), now + 9 * TICKET_LIFETIME),
        Err(RedeemError::Used(handoff(ORIGIN)))
    );
    for _ in 0..3 {
        assert_eq!(redeem(ticket.secret.expose(), now), Err(RedeemError::Unknown));
    }

    let late = tickets.issue(handoff(ORIGIN), now);
    let after = now + TICKET_LIFETIME + Duration::from_nanos(1);
    assert_eq!(redeem(late.secret.expose(), after), Err(RedeemError::Unknown));
}

/// BROW-4, BROW-33: whoever presents it for something else has found it, and spends it.
#[test]
fn another_purpose_spends_a_ticket() {
    let (tickets, now) = (Tickets::new(), Instant::now());
    let fallback = Purpose::Page { host: Host::Loopback(LoopbackHost::V4) };
    let purposes = [PAGE, fallback, handoff(ORIGIN), handoff("http://localhost:5174")];
    for own in &purposes {
        for other in purposes.iter().filter(|other| *other != own) {
            let ticket = tickets.issue(own.clone(), now);
            let redeem = |purpose| tickets.redeem(ticket.secret.expose(), purpose, now);
            assert_eq!(redeem(other), Err(RedeemError::Unknown));
            assert_eq!(redeem(own), Err(RedeemError::Used(own.clone())));
        }
    }
}

#[test]
fn the_number_of_tickets_is_bounded_and_the_newest_work() {
    let (tickets, now) = (Tickets::new(), Instant::now());
    let all: Vec<IssuedTicket> = (0..=MAX_TICKETS).map(|_| tickets.issue(PAGE, now)).collect();
    let redeem = |ticket: &IssuedTicket| tickets.redeem(ticket.secret.expose(), &PAGE, now);
    assert_eq!(redeem(&all[0]), Err(RedeemError::Unknown));
    assert!(all[1..].iter().all(|ticket| redeem(ticket).is_ok()));
}

/// CRED-17.
#[test]
fn a_revoked_ticket_admits_nothing_and_a_used_one_stays_known() {
    let (tickets, now) = (Tickets::new(), Instant::now());
    let [fresh, used] = [(); 2].map(|()| tickets.issue(handoff(ORIGIN), now));
    let redeem = |ticket: &IssuedTicket| tickets.redeem(ticket.secret.expose(), &handoff(ORIGIN), now);
    assert_eq!(redeem(&used), Ok(()));
    tickets.revoke();
    assert_eq!(
        (redeem(&fresh), redeem(&used)),
        (Err(RedeemError::Unknown), Err(RedeemError::Used(handoff(ORIGIN))))
    );
    assert_eq!(redeem(&tickets.issue(handoff(ORIGIN), now)), Ok(()));
}

#[test]
fn no_debug_output_shows_a_ticket() {
    let tickets = Tickets::new();
    let ticket = tickets.issue(PAGE, Instant::now());
    assert!(!format!("{tickets:?} {ticket:?}").contains(ticket.secret.expose()));
}

#[test]
fn the_state_of_a_ticket_is_known_by_its_id() {
    let (tickets, now) = (Tickets::new(), Instant::now());
    let [ticket, spent] = [(); 2].map(|()| tickets.issue(PAGE, now));
    assert!(ticket.id.len() == 16 && ticket.id.bytes().all(|b| b.is_ascii_hexdigit()));
    let state = |id: &str, now| tickets.state(id, now);
    let live = |is_redeemed| Some(TicketState { purpose: PAGE, is_redeemed });
    assert_eq!(
        (state(&ticket.id, now), state("", now), state(ticket.secret.expose(), now)),
        (live(false), None, None)
    );
    assert_eq!(tickets.redeem(ticket.secret.expose(), &PAGE, now), Ok(()));
    assert_eq!(tickets.redeem(spent.secret.expose(), &handoff(ORIGIN), now), Err(RedeemError::Unknown));
    assert_eq!((state(&ticket.id, now + TICKET_LIFETIME), state(&spent.id, now)), (live(true), live(false)));
    assert_eq!(state(&ticket.id, now + TICKET_LIFETIME + Duration::from_nanos(1)), None);
}
