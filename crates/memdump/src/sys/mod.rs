//! The system calls that nix has no safe wrapper for.

mod huge;
mod pages;

pub(crate) use huge::{HUGE_BYTES, make_huge};
pub(crate) use pages::{
    PageRegion, ScanRequest, pagemap_scan, scan_all, uffd_api, uffd_register_wp, with_own_page,
    with_tracked_guard_page, with_zero_page,
};
