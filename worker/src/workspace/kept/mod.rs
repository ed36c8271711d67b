//! Trees that are used again.
//!
//! A checkout of a large repository costs far more than what an agent changes in it. So the tree
//! of an attempt that ended well is put back and kept: the worker removes whatever the agent has
//! changed or made ([`put_back`]), and git restores what is missing, or checks the next base out
//! over it ([`stock`]). The cost follows the change.
//!
//! Nothing that an earlier attempt wrote may reach a later one. A tree in doubt is thrown away.
//! Only the times and inode numbers of files tell which files were restored.

mod inventory;
mod put_back;
mod shelf;
mod stock;

pub use shelf::Reach;
pub(super) use shelf::{Announced, KeptKey, KeptTree, KeptTrees, is_kept_tree, remove_behind};
pub(super) use stock::{INDEX, Stock, TREE, clear, differences, take_stock, unchanged};
