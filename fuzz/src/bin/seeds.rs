//! `seeds DIRECTORY`: writes the inputs that each target begins with into a folder of its name.

use std::path::Path;
use std::{env, fs, io};

use local_daemon_fuzz::TARGETS;

fn main() -> io::Result<()> {
    let directory = env::args_os().nth(1).ok_or_else(|| io::Error::other("which directory?"))?;
    for target in TARGETS {
        let folder = Path::new(&directory).join(target.name);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in (target.seeds)() {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
