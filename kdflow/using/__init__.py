"""A trained run, used: reopened, shown pictures, measured again, exported, looked at."""
