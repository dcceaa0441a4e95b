"""The classroom LSTM with step gates, walked through gate by gate."""
