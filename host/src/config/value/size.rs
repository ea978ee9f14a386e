//! Shows sizes.

pub(in crate::config) const BYTES_PER_GIB: f64 = (1_u64 << 30) as f64;

/// Shows a size in GiB, with up to six decimals, rounded up so that the smallest shown value is accepted.
pub(in crate::config) fn show_gib(bytes: u64) -> String {
    ((bytes as f64 / BYTES_PER_GIB * 1e6).ceil() / 1e6).to_string()
}

/// Shows a size in the largest binary unit that divides it.
pub(crate) fn show_size(bytes: u64) -> String {
    const SHOWN: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, unit_bytes) in SHOWN {
        if bytes >= unit_bytes && bytes.is_multiple_of(unit_bytes) {
            return format!("{} {unit}", bytes / unit_bytes);
        }
    }
    match bytes {
        1 => "1 byte".to_owned(),
        n => format!("{n} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SIZE_BYTES_MAX;

    #[test]
    fn sizes_are_shown_in_the_unit_that_divides_them() {
        assert_eq!(show_size(SIZE_BYTES_MAX), "64 TiB");
        assert_eq!(show_size(4096), "4 KiB");
        assert_eq!(show_size(1), "1 byte");
        assert_eq!(show_size(1025), "1025 bytes");
    }
}
