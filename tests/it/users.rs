//! Users: signing up and in, and what an administrator does with them.
