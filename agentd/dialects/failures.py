"""The errors that rows of several APIs document: those of what they have their rooms do."""

from agentd import errors

PATH_ERRORS = (
    errors.NotFound,
    errors.NotADirectory,
    errors.InvalidPath,
    errors.PathReserved,
    errors.PermissionDenied,
    errors.TooManyLinks,
    errors.UnknownUser,
)
WRITE_ERRORS = (
    *PATH_ERRORS,
    errors.IsADirectory,
    errors.Conflict,
    errors.NoSpace,
    errors.ReadOnlyFileSystem,
    errors.RequestTooLarge,
)
START_ERRORS = (
    *PATH_ERRORS,
    errors.ExecFailed,
    errors.ProgramNotFound,
    errors.KeyReused,
    errors.CapacityExceeded,
    errors.Unavailable,
)
