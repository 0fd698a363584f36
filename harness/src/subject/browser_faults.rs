//! The faults of the daemon's browser paths, chapter 12.

use super::fault::Fault;

const fn fault(name: &'static str, about: &'static str) -> Fault {
    Fault { name, about }
}

/// Every one.
pub(crate) const FAULTS: &[Fault] = &[
    fault("BROW-1.half", "draws tickets of 128 bits"),
    fault("BROW-1.clock-first", "begins a ticket with the time"),
    fault("BROW-1.seeded", "makes tickets from their number"),
    fault("BROW-2.reusable", "never spends a ticket"),
    fault(
        "BROW-2.check-then-mark",
        "looks whether a ticket is spent under one lock and spends it under another",
    ),
    fault("BROW-3.for-ever", "keeps tickets until they are used"),
    fault("BROW-3.minute", "lets a ticket work for a minute"),
    fault(
        "BROW-4.handoff-opens-the-page",
        "takes a handoff ticket for the page",
    ),
    fault("BROW-4.page-hands-off", "takes a page ticket for a handoff"),
    fault("BROW-4.as-bearer", "takes a ticket as bearer"),
    fault("BROW-4.as-query-token", "takes a ticket as query token"),
    fault("BROW-5.tickets", "issues tickets to pages"),
    fault("BROW-5.list", "lists the page tokens for a page"),
    fault("BROW-5.revokes", "lets a page revoke page tokens"),
    fault("BROW-6.gone", "answers 410 for a ticket that was used"),
    fault("BROW-6.names-the-used", "says that a ticket was used"),
    fault("BROW-6.names-the-late", "says that a ticket is late"),
    fault("BROW-6.not-found", "answers 404 for a ticket that never was"),
    fault("BROW-7.half", "draws page tokens of 128 bits"),
    fault(
        "BROW-7.one-per-origin",
        "gives each page of an origin the same token",
    ),
    fault(
        "BROW-8.signed",
        "signs page tokens with the credential instead of remembering them",
    ),
    fault("BROW-9.token-kept", "keeps page tokens in a file"),
    fault("BROW-9.ticket-kept", "logs the tickets that it issues"),
    fault(
        "BROW-10.any-origin",
        "takes a page token from every origin that it admits",
    ),
    fault(
        "BROW-10.any-listed",
        "takes the page token of one listed origin from another",
    ),
    fault("BROW-10.absent-is-any", "takes every page token without Origin"),
    fault(
        "BROW-10.same-machine",
        "takes the token of 127.0.0.1 from pages of localhost",
    ),
    fault(
        "BROW-10.another-name",
        "takes the token of 127.0.0.1 with a request to localhost",
    ),
    fault("BROW-11.bearer-alone", "takes page tokens as bearer alone"),
    fault("BROW-11.reads-alone", "lets pages read and nothing else"),
    fault("BROW-12.token", "names a page token by itself"),
    fault("BROW-12.part-of-it", "names a page token by its first characters"),
    fault(
        "BROW-12.hint",
        "shows the end of a page token, as card numbers are shown",
    ),
    fault("BROW-12.no-times", "lists no times"),
    fault("BROW-12.never-used", "never tells of the use of a page token"),
    fault(
        "BROW-12.foreign-alone",
        "leaves the tokens of its own page out of the list",
    ),
    fault(
        "BROW-13.streams-go-on",
        "lets the streams of a revoked page token go on",
    ),
    fault(
        "BROW-13.in-a-while",
        "ends the streams of a revoked page token after 10 s",
    ),
    fault(
        "BROW-13.unlisted-alone",
        "answers a revocation and revokes nothing",
    ),
    fault(
        "BROW-14.kept",
        "keeps the page tokens of an origin that is removed",
    ),
    fault(
        "BROW-14.back-again",
        "gives an origin that is added again its old page tokens back",
    ),
    fault(
        "BROW-15.for-all",
        "writes the launcher file for every user to read",
    ),
    fault(
        "BROW-15.elsewhere",
        "writes the launcher file among the temporary files",
    ),
    fault(
        "BROW-15.address",
        "opens the address of the daemon, without the ticket",
    ),
    fault(
        "BROW-16.address",
        "names the address with the ticket to the browser",
    ),
    fault(
        "BROW-16.handoff-address",
        "names the address with the ticket to the browser of a handoff",
    ),
    fault(
        "BROW-16.environment",
        "hands the ticket to the browser in its environment",
    ),
    fault(
        "BROW-16.credential",
        "hands the credential to the browser in its environment",
    ),
    fault("BROW-17.left", "never removes a launcher file"),
    fault("BROW-17.later", "removes a launcher file after two minutes"),
    fault("BROW-18.query", "prints the ticket in the query"),
    fault("BROW-18.chatter", "prints a sentence before the address"),
    fault("BROW-18.browser-too", "starts the browser all the same"),
    fault("BROW-19.no-launcher", "refuses the origin null of the launcher"),
    fault("BROW-19.no-reload", "refuses the origin of its own page"),
    fault("BROW-19.no-tools", "refuses a ticket without Origin"),
    fault("BROW-20.listed", "opens the page for listed origins"),
    fault(
        "BROW-20.any-origin",
        "opens the page for every origin that has a ticket",
    ),
    fault("BROW-21.twice", "writes the token into the page twice"),
    fault("BROW-21.json", "answers a ticket with JSON"),
    fault("BROW-22.stored", "lets caches keep the page"),
    fault("BROW-22.no-policy", "sends no content security policy"),
    fault("BROW-22.no-frame-options", "sends no X-Frame-Options"),
    fault("BROW-22.no-opener-policy", "sends no Cross-Origin-Opener-Policy"),
    fault(
        "BROW-22.no-resource-policy",
        "sends no Cross-Origin-Resource-Policy",
    ),
    fault("BROW-22.no-referrer-policy", "sends no Referrer-Policy"),
    fault("BROW-22.sniffed", "sends no X-Content-Type-Options"),
    fault("BROW-22.own-frames", "lets pages of its own origin frame it"),
    fault("BROW-22.framed", "leaves frame-ancestors to X-Frame-Options"),
    fault("BROW-22.inline-scripts", "allows inline scripts"),
    fault("BROW-22.connects-anywhere", "lets the page connect to everything"),
    fault("BROW-22.any-base", "lets the page change its base"),
    fault(
        "BROW-22.page-alone",
        "sends the headers with the page and not with the shell",
    ),
    fault("BROW-23.of-the-launch", "draws the nonce once for all answers"),
    fault("BROW-23.of-the-second", "makes the nonce from the time"),
    fault(
        "BROW-24.local-storage",
        "keeps the token in storage that outlives the tab",
    ),
    fault("BROW-24.address-stays", "leaves /page in the address"),
    fault(
        "BROW-24.in-the-markup",
        "leaves the script that holds the token in the page",
    ),
    fault("BROW-25.page", "sets a cookie with the page"),
    fault("BROW-25.shell", "sets a cookie with the shell"),
    fault("BROW-25.answers", "sets a cookie with what it answers in JSON"),
    fault("BROW-26.problem", "answers GET / as every other route"),
    fault("BROW-26.open", "answers the shell with 200"),
    fault("BROW-26.id", "names its id in the shell"),
    fault(
        "BROW-26.same-origin",
        "gives a token to what the engine calls same-origin",
    ),
    fault(
        "BROW-26.navigation",
        "gives a token to what the engine calls a navigation",
    ),
    fault("BROW-26.cookie", "gives a token to whoever has its cookie"),
    fault(
        "BROW-27.no-reload",
        "forgets the token when the page is loaded again",
    ),
    fault("BROW-27.no-ticket", "ignores a ticket in the fragment"),
    fault(
        "BROW-27.silent",
        "says that it is unauthorized, and not which command opens it",
    ),
    fault(
        "BROW-28.as-others",
        "answers the request for a service worker as any other",
    ),
    fault("BROW-28.root-alone", "ends a service worker at / alone"),
    fault("BROW-28.empty", "answers with a worker that does nothing"),
    fault("BROW-28.html", "answers a worker of the type of a page"),
    fault("BROW-29.each-part", "opens a stream for each part of the page"),
    fault(
        "BROW-30.left-to-the-engine",
        "leaves it to the engine to open the stream again",
    ),
    fault("BROW-30.from-now", "opens the stream anew without the last id"),
    fault("BROW-31.issued", "issues handoff tickets for every origin"),
    fault(
        "BROW-31.forbidden",
        "answers 403 to the wish for a handoff ticket of an unlisted origin",
    ),
    fault(
        "BROW-32.own-origin",
        "binds the token of a handoff to its own origin",
    ),
    fault("BROW-32.created", "answers a handoff with 201"),
    fault("BROW-33.any-listed", "hands off to any listed origin"),
    fault("BROW-33.no-origin", "hands off without Origin"),
    fault("BROW-33.kept", "keeps a ticket that was presented by another"),
    fault("BROW-34.silent", "tells nobody of a second use"),
    fault(
        "BROW-34.handoff-alone",
        "tells of the second use of handoff tickets alone",
    ),
    fault("BROW-34.no-origin", "tells of a second use without the origin"),
];
