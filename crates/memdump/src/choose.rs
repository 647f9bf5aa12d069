//! Which pages of an area a checkpoint has to hold.

use crate::area::{Area, AreaKind};
use crate::query::{PageCategories, PageQuery};
use crate::vmflags::VmFlags;

/// What is to be stored of one area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Choice {
    /// Nothing: the content is in a file, in a device, or made by the kernel.
    Nothing,
    /// Every page.
    Whole,
    /// The pages that answer this query and are no guard pages.
    Pages(PageQuery),
    /// What the shared object behind the area holds, mapped by this task or not.
    Object,
}

/// The pages to store of `area`.
pub fn choice(area: &Area) -> Choice {
    // The kernel may drop its pages at any time, so a program must be ready to find zeros. What lies there (the state of
    // getrandom(2) in the vdso) must not be in two processes.
    if area.vm_flags.contains(VmFlags::DROPPABLE) {
        return Choice::Nothing;
    }
    match area.kind {
        AreaKind::AnonPrivate | AreaKind::Heap | AreaKind::Stack => Choice::Pages(private_pages(false)),
        AreaKind::FilePrivate => Choice::Pages(private_pages(true)),
        // The task may hold return addresses into it, and another kernel has another one.
        AreaKind::Vdso => Choice::Whole,
        AreaKind::AnonShared | AreaKind::SysvShared => Choice::Object,
        AreaKind::FileShared | AreaKind::Vvar | AreaKind::Vsyscall | AreaKind::Device | AreaKind::Special => {
            Choice::Nothing
        }
    }
}

/// Whether guard pages can be in `area`.
pub(crate) fn may_hold_guards(area: &Area) -> bool {
    !matches!(
        area.kind,
        AreaKind::Vdso | AreaKind::Vvar | AreaKind::Vsyscall | AreaKind::Device | AreaKind::Special
    )
}

/// Pages with content of the task's own, and guard pages, told apart by [`PageCategories::GUARD`].
///
/// Never-touched pages and the page of zeros read as zeros after restore anyway. Pages of a file are left out where
/// there is a file; asking costs the kernel a look at every page (5 times the whole scan), so elsewhere nobody asks.
fn private_pages(has_file: bool) -> PageQuery {
    let not = if has_file { PageCategories::ZERO | PageCategories::FILE } else { PageCategories::ZERO };
    PageQuery {
        inverted: not,
        all_of: not,
        any_of: PageCategories::PRESENT | PageCategories::SWAPPED | PageCategories::GUARD,
        returned: PageCategories::GUARD,
    }
}

/// Guard pages only.
pub(crate) fn guard_pages() -> PageQuery {
    PageQuery { any_of: PageCategories::GUARD, returned: PageCategories::GUARD, ..PageQuery::default() }
}

/// Pages of shared memory that this task has mapped.
pub(crate) fn mapped_pages() -> PageQuery {
    PageQuery {
        any_of: PageCategories::PRESENT | PageCategories::SWAPPED | PageCategories::GUARD,
        returned: PageCategories::GUARD,
        ..PageQuery::default()
    }
}
