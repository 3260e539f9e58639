//! The release binary as operators run it: three processes, configured by environment variables alone.
