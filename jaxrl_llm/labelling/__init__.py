"""People's judgement of answers: what is asked, what is decided, and the file it is kept in.  No terminal in here."""
