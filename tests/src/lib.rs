//! What proves Twinlane.
