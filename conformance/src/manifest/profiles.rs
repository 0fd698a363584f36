//! Which profiles include which, after chapter 16.

use std::collections::BTreeSet;

use local_daemon_spec::Profile;

/// The profiles that a profile includes itself.
const fn included(profile: Profile) -> &'static [Profile] {
    use Profile::{Browser, Client, ControlPlane, Core, Grants, Lifecycle, Notes, Perimeter, Proof, Proxies};
    use Profile::{Sessions, Streams, UnixSocket};
    match profile {
        Core | Client => &[],
        Proof | Perimeter | Lifecycle => &[Core],
        Streams | Grants => &[Perimeter],
        Browser => &[Perimeter, Streams],
        UnixSocket => &[Proof],
        Notes => &[Streams],
        Sessions | Proxies => &[Streams, Lifecycle],
        ControlPlane => &[Grants, Sessions, Proxies],
    }
}

/// Returns these profiles and all that they include.
pub(super) fn with_included(profiles: &BTreeSet<Profile>) -> BTreeSet<Profile> {
    let mut all = BTreeSet::new();
    let mut open: Vec<Profile> = profiles.iter().copied().collect();
    while let Some(profile) = open.pop() {
        if all.insert(profile) {
            open.extend(included(profile));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_include_what_the_table_of_the_chapter_says() {
        let chapter = include_str!("../../../spec/chapters/16-conformance.md");
        let words =
            |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
        let rows = chapter.lines().filter(|line| line.starts_with("| `"));
        let mut seen = Vec::new();
        for row in rows {
            let cells: Vec<&str> = row.split('|').collect();
            let Ok(profile) = words(cells[1])[0].parse::<Profile>() else { continue };
            // A client sees the proof from its own side, and claims nothing of a daemon.
            let said = if profile == Profile::Client { Vec::new() } else { words(cells[2]) };
            let known: Vec<String> = included(profile).iter().map(ToString::to_string).collect();
            assert_eq!(known, said, "{profile}");
            seen.push(profile);
        }
        assert_eq!(seen, Profile::ALL);
    }

    #[test]
    fn a_claim_brings_everything_that_it_includes() {
        let of = |profile| with_included(&BTreeSet::from([profile])).into_iter().collect::<Vec<_>>();
        assert_eq!(of(Profile::Client), [Profile::Client]);
        assert_eq!(
            of(Profile::Notes),
            [
                Profile::Core,
                Profile::Perimeter,
                Profile::Streams,
                Profile::Notes
            ]
        );
        let plane = of(Profile::ControlPlane);
        assert!(plane.contains(&Profile::Lifecycle) && !plane.contains(&Profile::Proof), "{plane:?}");
    }
}
