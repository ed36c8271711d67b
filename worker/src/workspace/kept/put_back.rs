//! Removes from a tree whatever is not as the inventory says. The rest is as git has checked it
//! out.
//!
//! An agent can fake the content, size, mode, owner and modification time of a file, and put
//! another inode in its place. It cannot fake the time of the last change, which the kernel sets.
//! A tree in which something is stranger than that is in doubt, and is thrown away.

use std::io;
use std::path::Path;

use super::super::directory::{Directory, Entry, Stamp};
use super::inventory::{Inventory, is_agents_repository};

/// Removes everything that differs from the inventory, and everything that it does not name.
/// Directories go to `refuse`, where somebody else may remove them later. Returns the inventory of
/// the rest. No process may write into the tree meanwhile.
///
/// # Errors
/// If the tree is in doubt: it must be thrown away.
pub(super) fn put_back(
    tree: &Directory,
    inventory: &Inventory,
    refuse: &Directory,
) -> io::Result<Inventory> {
    let mut rest = Inventory::default();
    refuse_attributes(tree)?;
    let mounted = tree.walk(&mut |directory, path, entry| {
        let known = inventory.get(path).filter(|_| !is_agents_repository(path));
        let Some((known, now)) = known.zip(directory.stamp(Path::new(&entry.name))?) else {
            directory.discard(&entry.name, refuse)?;
            return Ok(false);
        };
        if known.is_same_directory(&now) {
            rest.put(path, again(directory, entry, known, &now)?);
            return Ok(true);
        }
        if *known == now && !known.is_directory() {
            rest.put(path, now);
        } else {
            directory.discard(&entry.name, refuse)?;
        }
        Ok(false)
    })?;
    match mounted.first() {
        Some(path) => {
            let path = path.display();
            Err(io::Error::other(format!("something is mounted at {path}")))
        }
        None => Ok(rest),
    }
}

/// Gives a directory that may have changed its mode, and returns its stamp.
fn again(directory: &Directory, entry: &Entry, known: &Stamp, now: &Stamp) -> io::Result<Stamp> {
    if known.changed() == now.changed() {
        return Ok(*now);
    }
    if known.rights() != now.rights() {
        directory.set_rights(&entry.name, known.rights())?;
    }
    refuse_attributes(&directory.enter(&entry.name)?)?;
    let stamp = directory.stamp(Path::new(&entry.name))?;
    stamp.ok_or_else(|| io::Error::other("a directory is gone: a process writes into the tree"))
}

fn refuse_attributes(directory: &Directory) -> io::Result<()> {
    if directory.has_attributes()? {
        return Err(io::Error::other(
            "a directory has attributes that its owner has set",
        ));
    }
    Ok(())
}
